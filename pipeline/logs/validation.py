"""What makes a log's columns usable and its rows good; ingest and `fearec-score` agree on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.sections import LogSettings
from pipeline.dates import run_end
from pipeline.errors import SchemaError
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID, is_id_type

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000}
_EPOCH = datetime(1970, 1, 1)
# The calendar years that can be told as text; anything beyond is as bad as its nearest end.
_FIRST = (datetime.min - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max - _EPOCH) // timedelta(microseconds=1)

EARLIEST = "1990-01-01 00:00:00+00"  # before it, a clock or a unit is wrong
ID_TYPES = "integers (at most 64 bits, signed) or strings"  # as an error tells what it expected
AFTER_RUN_DATE = "timestamp after the run date"  # the one reason that time heals


@dataclass(frozen=True)
class IdTypes:
    """Arrow types of the user and item ids: ``string``, or a signed integer."""

    user: pa.DataType
    item: pa.DataType


def check_columns(columns: pa.Schema, logs: LogSettings, where: str) -> IdTypes:
    """Check that a log file has the three columns, each of a type that can be used.

    Args:
        columns: The file's Arrow schema.
        logs: What its columns are called.
        where: The file, for the error.

    Raises:
        SchemaError: a column is missing or has another type.
    """
    user = _column_type(columns, logs.user_id, USER_ID, ID_TYPES, where)
    item = _column_type(columns, logs.item_id, ITEM_ID, ID_TYPES, where)
    times = "timestamps, or integers or floats since the epoch"
    kind = _column_type(columns, logs.timestamp, TIMESTAMP, times, where)
    if not is_time_type(kind):
        raise _wrong_type(where, logs.timestamp, times, kind)
    return IdTypes(
        _plain_id_type(user, logs.user_id, ID_TYPES, where),
        _plain_id_type(item, logs.item_id, ID_TYPES, where),
    )


def plain_id_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of `IdTypes` that holds ids of this one, if there is one."""
    if not is_id_type(kind) or pa.types.is_uint64(kind):
        return None
    if pa.types.is_unsigned_integer(kind):  # which Delta tables do not know
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[kind.bit_width]
    return kind if pa.types.is_integer(kind) else pa.string()


def is_time_type(kind: pa.DataType) -> bool:
    """Whether `normalise_timestamps` takes it."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(number or pa.types.is_timestamp(kind))


def common_types(found: Mapping[str, IdTypes]) -> IdTypes:
    """The types that hold the ids of every file: integers widen, strings stay strings.

    Args:
        found: Each file's types, by its path; at least one file.

    Raises:
        SchemaError: one file has integers where another has strings.
    """
    users = {where: types.user for where, types in found.items()}
    items = {where: types.item for where, types in found.items()}
    return IdTypes(_widest(users, USER_ID), _widest(items, ITEM_ID))


def normalise_timestamps(column: pa.Array, unit: str) -> pa.Array:
    """Any usable timestamp column as microseconds, UTC.

    Naive timestamps are UTC. NaN becomes null; times outside the years 1..9999, infinities
    among them, become the nearest end, which no rule lets pass.

    Args:
        column: Timestamps of any unit and zone, or numbers since the epoch.
        unit: Of the numbers: ``s`` or ``ms`` (`LogSettings.timestamp_unit`).
    """
    if pa.types.is_timestamp(column.type):
        ticks = column.cast(pa.int64())
        if column.type.unit == "ns":
            return pc.divide(ticks, 1000).cast(TIME)
        scale = _MICROSECONDS.get(column.type.unit, 1)
        return pc.multiply(_clamp(ticks, -(-_FIRST // scale), _LAST // scale), scale).cast(TIME)
    # Float64 is exact for every time that passes, and cannot overflow for those that do not.
    numbers = column.cast(pa.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    exact = pc.round(pc.multiply(numbers, float(_MICROSECONDS[unit])))
    # A float cannot hold _LAST itself; a second less keeps it within the year 9999.
    inside = _clamp(exact, float(_FIRST), float(_LAST - 1_000_000))
    return inside.cast(pa.int64()).cast(TIME)


def reason_sql(run_date: date, time_zone: str) -> str:
    """The row rules as a DuckDB expression: why a row is bad, or NULL for a good one.

    It reads the columns ``user_id``, ``item_id`` and ``timestamp`` (TIMESTAMP WITH TIME ZONE).
    """
    return f"""CASE
        WHEN {USER_ID} IS NULL THEN 'null user_id'
        WHEN {ITEM_ID} IS NULL THEN 'null item_id'
        WHEN {TIMESTAMP} IS NULL THEN 'null timestamp'
        WHEN {TIMESTAMP} < TIMESTAMPTZ '{EARLIEST}' THEN 'timestamp before 1990'
        WHEN {TIMESTAMP} >= TIMESTAMPTZ '{run_end(run_date, time_zone).isoformat(sep=" ")}'
            THEN '{AFTER_RUN_DATE}'
    END"""


def _column_type(
    columns: pa.Schema, name: str, meaning: str, expected: str, where: str
) -> pa.DataType:
    index = columns.get_field_index(name)
    if index < 0:
        raise SchemaError(
            f"no column {name!r}",
            where,
            expected=f"{name!r} with {expected}",
            found="columns " + ", ".join(columns.names),
            remedy=f'Map it in the settings: [logs] {meaning} = "<the file\'s name for it>".',
        )
    return columns.field(index).type


def _plain_id_type(kind: pa.DataType, name: str, expected: str, where: str) -> pa.DataType:
    plain = plain_id_type(kind.value_type if pa.types.is_dictionary(kind) else kind)
    if plain is None:
        raise _wrong_type(where, name, expected, kind)
    return plain


def _wrong_type(where: str, name: str, expected: str, kind: pa.DataType) -> SchemaError:
    return SchemaError(
        f"column {name!r} has a type that cannot be used",
        where,
        expected=expected,
        found=str(kind),
        remedy="Cast the column, or map another in the settings' [logs].",
    )


def _widest(kinds: Mapping[str, pa.DataType], name: str) -> pa.DataType:
    (first, kind), *others = kinds.items()
    for where, other in others:
        if pa.types.is_integer(other) != pa.types.is_integer(kind):
            raise SchemaError(
                f"{name} has another type than elsewhere",
                where,
                expected=f"{kind} as in {first}",
                found=str(other),
                remedy="Cast the ids of one to the type of the other, or map the right columns.",
            )
        if pa.types.is_integer(other) and other.bit_width > kind.bit_width:
            first, kind = where, other
    return kind


def _clamp(values: pa.Array, low: float, high: float) -> pa.Array:
    top = pc.min_element_wise(values, pa.scalar(high, values.type), skip_nulls=False)
    return pc.max_element_wise(top, pa.scalar(low, values.type), skip_nulls=False)
