"""The rules for a log's columns and rows, shared by ingest and `fearec-score`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from pipeline.config.row_conditions import as_condition, check_condition, condition_types
from pipeline.config.sections import LogSettings
from pipeline.errors import ConfigError, SchemaError, first_line, raised_as
from pipeline.logs.conversion import ID_TYPES, TIME_TYPES, is_time_type, plain_id_type
from pipeline.logs.event_columns import EVENT_TYPES, VALUE_TYPES, is_event_type, is_value_type
from pipeline.schema import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID, VALUE

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)  # an earlier timestamp means a wrong clock or unit
AFTER_RUN_DATE = "timestamp after the run date"  # the only reason that can lapse
FILTERED = "filtered"  # the reason of a row that `logs.keep` leaves out

_SQL_TYPES = {"int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT"}
_WITHOUT = " Or write the file again with the column, null where it is not known."
_OPTIONAL = {EVENT_TYPE: (is_event_type, EVENT_TYPES), VALUE: (is_value_type, VALUE_TYPES)}


@dataclass(frozen=True)
class IdTypes:
    """The Arrow types of the user and item ids: each ``string`` or a signed integer.

    Of one file they may be ``null``, where it has no value.
    """

    user: pa.DataType
    item: pa.DataType


def check_columns(columns: pa.Schema, logs: LogSettings, where: str) -> IdTypes:
    """Check that a log file has the columns, each of a usable type; return the id types.

    Args:
        columns: The file's Arrow schema.
        logs: The names of its columns.
        where: The file, for the error.

    Raises:
        SchemaError: a column is missing or has another type.
    """
    user = _column_type(columns, logs.user_id, USER_ID, ID_TYPES, where)
    item = _column_type(columns, logs.item_id, ITEM_ID, ID_TYPES, where)
    kind = _column_type(columns, logs.timestamp, TIMESTAMP, TIME_TYPES, where)
    if not is_time_type(kind):
        raise _wrong_type(where, logs.timestamp, TIME_TYPES, kind)
    for meaning, name in logs.optional.items():
        is_usable, expected = _OPTIONAL[meaning]
        kind = _column_type(columns, name, meaning, expected, where, _WITHOUT)
        if not is_usable(kind):
            raise _wrong_type(where, name, expected, kind)
    return IdTypes(
        _plain_id_type(user, logs.user_id, ID_TYPES, where),
        _plain_id_type(item, logs.item_id, ID_TYPES, where),
    )


def check_not_twice(columns: pa.Schema, name: str, where: str, other_remedy: str = "") -> None:
    """Check that a file has no two columns of a name.

    Args:
        columns: The file's Arrow schema.
        name: The name.
        where: The file, for the error.
        other_remedy: What else than to write the file again would help.

    Raises:
        SchemaError: it has.
    """
    if columns.names.count(name) > 1:
        raise SchemaError(
            f"column {name!r} is there twice",
            where,
            expected="one column of that name",
            found="columns " + ", ".join(columns.names),
            remedy=f"Write the file again with one of them{other_remedy}.",
        )


def common_types(found: Mapping[str, IdTypes]) -> IdTypes:
    """The id types wide enough for every file: integers widen, strings stay strings.

    Args:
        found: Each file's types, by path; at least one file.

    Raises:
        SchemaError: one file has integers where another has strings.
    """
    users = {where: types.user for where, types in found.items()}
    items = {where: types.item for where, types in found.items()}
    return IdTypes(_widest(users, USER_ID), _widest(items, ITEM_ID))


def check_keep(logs: LogSettings, types: IdTypes) -> None:
    """Check that `logs.keep` is a condition on rows whose ids have these types.

    Raises:
        ConfigError: it is not.
    """
    if logs.keep is None:
        return
    user, item = (_SQL_TYPES.get(str(kind), "VARCHAR") for kind in (types.user, types.item))
    with raised_as(ConfigError, ValueError, "cannot be used with these logs", "logs.keep"):
        check_condition(logs.keep, condition_types(logs.optional, user, item))


@contextmanager
def keep_applied(logs: LogSettings, db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a query evaluate `reason_sql` in the ``with`` block: in the time zone of the logs.

    Raises:
        ConfigError: `logs.keep` fails on a row, as a cast may.
    """
    if logs.keep is None:
        yield
        return
    caught = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)
    with raised_as(ConfigError, caught, "fails on a row", "logs.keep", message=first_line):
        db.execute(f"SET TimeZone = '{logs.time_zone or 'UTC'}'")
        yield
        db.execute("RESET TimeZone")


def reason_sql(end: datetime, keep: str | None) -> str:
    """The row rules as a DuckDB expression: why a row is left out, or NULL for one that is used.

    It is the reason why the row is bad, or `FILTERED`. A row for which `logs.keep` is false is
    filtered, bad or not. One for which it is NULL is filtered if it is good or merely too late; the
    fault of another may be the cause.

    The expression reads the columns of `log_rows`.

    Args:
        end: Of the run date.
        keep: The setting `logs.keep`.
    """
    keep = keep and as_condition(keep)
    return f"""CASE
        {f"WHEN NOT {keep} THEN '{FILTERED}'" if keep else ""}
        WHEN {USER_ID} IS NULL THEN 'null user_id'
        WHEN {ITEM_ID} IS NULL THEN 'null item_id'
        WHEN {TIMESTAMP} IS NULL THEN 'null timestamp'
        WHEN {TIMESTAMP} < TIMESTAMPTZ '{EARLIEST}' THEN 'timestamp before 1990'
        WHEN raw_value IS NOT NULL THEN 'value is no finite number'
        {f"WHEN {keep} IS NULL THEN '{FILTERED}'" if keep else ""}
        WHEN {TIMESTAMP} >= TIMESTAMPTZ '{end}'
            THEN '{AFTER_RUN_DATE}'
    END"""


def _column_type(
    columns: pa.Schema, name: str, meaning: str, expected: str, where: str, other: str = ""
) -> pa.DataType:
    check_not_twice(columns, name, where, ", or map another column in [logs]")
    if name not in columns.names:
        raise SchemaError(
            f"no column {name!r}",
            where,
            expected=f"{name!r} with {expected}",
            found="columns " + ", ".join(columns.names),
            remedy=f'Map it in the settings: [logs] {meaning} = "<the file\'s name for it>".'
            f" If other files have {name!r}, write this one again with that name.{other}",
        )
    return columns.field(name).type


def _plain_id_type(kind: pa.DataType, name: str, expected: str, where: str) -> pa.DataType:
    plain = plain_id_type(kind)
    if plain is None:
        raise _wrong_type(where, name, expected, kind)
    return plain


def _wrong_type(where: str, name: str, expected: str, kind: pa.DataType) -> SchemaError:
    return SchemaError(
        f"column {name!r} has a type that cannot be used",
        where,
        expected=expected,
        found=str(kind),
        remedy="Cast the column, or map another one in the settings' [logs].",
    )


def _widest(kinds: Mapping[str, pa.DataType], name: str) -> pa.DataType:
    typed = {where: kind for where, kind in kinds.items() if not pa.types.is_null(kind)}
    if not typed:
        return pa.string()
    (first, kind), *others = typed.items()
    for where, other in others:
        if pa.types.is_integer(other) != pa.types.is_integer(kind):
            raise SchemaError(
                f"{name} has another type than in other files",
                where,
                expected=f"{kind} as in {first}",
                found=str(other),
                remedy="Cast the ids of one to the type of the other, or map the right columns.",
            )
        if pa.types.is_integer(other) and other.bit_width > kind.bit_width:
            first, kind = where, other
    return kind
