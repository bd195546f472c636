"""The rules for a log's columns and rows, shared by ingest and `fearec-score`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.sections import LogSettings
from pipeline.errors import SchemaError
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID, is_id_type

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000}
_EPOCH = datetime(1970, 1, 1)
# The years 1 to 9999 in microseconds. Times beyond cannot be shown as text and are bad rows anyway.
_FIRST = (datetime.min - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max - _EPOCH) // timedelta(microseconds=1)

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)  # an earlier timestamp means a wrong clock or unit
ID_TYPES = "integers (at most 64 bits, signed) or strings"  # for error messages
AFTER_RUN_DATE = "timestamp after the run date"  # the only reason that can lapse


@dataclass(frozen=True)
class IdTypes:
    """The Arrow types of the user and item ids: each ``string`` or a signed integer."""

    user: pa.DataType
    item: pa.DataType


def check_columns(columns: pa.Schema, logs: LogSettings, where: str) -> IdTypes:
    """Check that a log file has the three columns, each of a usable type; return the id types.

    Args:
        columns: The file's Arrow schema.
        logs: The names of its columns.
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
    """The type of `IdTypes` that holds ids of type `kind`; None if there is none."""
    if not is_id_type(kind) or pa.types.is_uint64(kind):
        return None
    if pa.types.is_unsigned_integer(kind):  # which Delta tables do not have
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[kind.bit_width]
    return kind if pa.types.is_integer(kind) else pa.string()


def is_time_type(kind: pa.DataType) -> bool:
    """Whether `normalise_timestamps` accepts a column of this type."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(number or pa.types.is_timestamp(kind))


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


def normalise_timestamps(column: pa.Array, unit: str) -> pa.Array:
    """Convert a timestamp column to microseconds, UTC.

    Naive timestamps are UTC. NaN becomes null. Times outside the years 1..9999, infinities among
    them, are clipped to these years, where the row rules reject them.

    Args:
        column: Timestamps of any unit and zone, or numbers since the epoch.
        unit: The unit of the numbers, ``s`` or ``ms`` (`LogSettings.timestamp_unit`).
    """
    if pa.types.is_timestamp(column.type):
        ticks = column.cast(pa.int64())
        if column.type.unit == "ns":
            return pc.divide(ticks, 1000).cast(TIME)
        scale = _MICROSECONDS.get(column.type.unit, 1)
        return pc.multiply(_clamp(ticks, -(-_FIRST // scale), _LAST // scale), scale).cast(TIME)
    # Float64 is exact for every valid time, and cannot overflow for an invalid one.
    numbers = column.cast(pa.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    exact = pc.round(pc.multiply(numbers, float(_MICROSECONDS[unit])))
    # A float cannot represent _LAST exactly; a second less stays within the year 9999.
    inside = _clamp(exact, float(_FIRST), float(_LAST - 1_000_000))
    return inside.cast(pa.int64()).cast(TIME)


def raw_timestamps(
    column: pa.Array, times: pa.Array, usual: tuple[datetime, datetime] | None
) -> pa.Array:
    """The values of a timestamp column as text, where the time is null or unusual; otherwise null.

    Args:
        column: As the file has it.
        times: The same, normalised.
        usual: The first usual time, and the first one that no longer is; None for no text at all.
    """
    text = pa.nulls(len(times), pa.string())
    if usual is None:
        return text
    first, end = (pa.scalar(time, TIME) for time in usual)
    odd = pc.or_(pc.less(times, first), pc.greater_equal(times, end))
    odd = pc.fill_null(odd, True)
    if not pc.any(odd).as_py():
        return text
    values = column.filter(odd)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return pc.replace_with_mask(text, odd, values.cast(pa.string()))


def reason_sql(end: datetime) -> str:
    """The row rules as a DuckDB expression: the reason why a row is bad, or NULL for a good row.

    The expression reads the columns ``user_id``, ``item_id`` and ``timestamp`` (TIMESTAMP WITH TIME
    ZONE).

    Args:
        end: Of the run date.
    """
    return f"""CASE
        WHEN {USER_ID} IS NULL THEN 'null user_id'
        WHEN {ITEM_ID} IS NULL THEN 'null item_id'
        WHEN {TIMESTAMP} IS NULL THEN 'null timestamp'
        WHEN {TIMESTAMP} < TIMESTAMPTZ '{EARLIEST}' THEN 'timestamp before 1990'
        WHEN {TIMESTAMP} >= TIMESTAMPTZ '{end}'
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
        remedy="Cast the column, or map another one in the settings' [logs].",
    )


def _widest(kinds: Mapping[str, pa.DataType], name: str) -> pa.DataType:
    (first, kind), *others = kinds.items()
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


def _clamp(values: pa.Array, low: float, high: float) -> pa.Array:
    top = pc.min_element_wise(values, pa.scalar(high, values.type), skip_nulls=False)
    return pc.max_element_wise(top, pa.scalar(low, values.type), skip_nulls=False)
