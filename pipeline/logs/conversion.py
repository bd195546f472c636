"""Columns of a log as the warehouse has them: ids as integers or strings, times in UTC."""

from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SchemaError, first_line, raised_as
from pipeline.schema import TIME, is_id_type

# For error messages.
ID_TYPES = "whole numbers (at most 64 bits, signed), strings, UUIDs or other fixed-size binary"
TIME_TYPES = "timestamps, dates, ISO 8601 text, or numbers since the epoch"
EVENT_TYPES = "strings or whole numbers"
VALUE_TYPES = "numbers, or text that holds them"

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH = datetime(1970, 1, 1)
# The years 1 to 9999 in microseconds. Times beyond cannot be shown as text and are bad rows anyway.
_FIRST = (datetime.min - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max - _EPOCH) // timedelta(microseconds=1)
_OFFSET = r":.*(Z|z|UTC|[+-]\d\d(:?\d\d)?)\s*$"  # at the end of a time as text
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}  # beyond it, floats of so many bits skip integers


def plain_id_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of `IdTypes` that `plain_ids` turns ids of type `kind` into; None if there is none.

    It is null for a column without any value, as pandas writes it.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return kind
    if pa.types.is_fixed_size_binary(kind) or isinstance(kind, pa.UuidType):
        return pa.string()
    is_whole_decimal = pa.types.is_decimal(kind) and kind.scale == 0
    if is_whole_decimal or pa.types.is_floating(kind) or pa.types.is_uint64(kind):
        return pa.int64()
    if not is_id_type(kind):
        return None
    if pa.types.is_unsigned_integer(kind):  # which Delta tables do not have
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[kind.bit_width]
    return kind if pa.types.is_integer(kind) else pa.string()


def plain_ids(column: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    """Ids of a type that `plain_id_type` knows, as type `kind`.

    NaN becomes null. UUIDs become text in their usual form, other binary becomes hexadecimal.

    Args:
        column: The ids.
        kind: An integer type or ``string``, wide enough for the column's type.
        where: The file, for the error.

    Raises:
        SchemaError: a number is not whole, or does not fit.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.UuidType):
        return _hexadecimal(column.storage, dashes=True).cast(kind)
    if pa.types.is_fixed_size_binary(column.type):
        return _hexadecimal(column, dashes=False).cast(kind)
    with raised_as(
        SchemaError,
        pa.ArrowInvalid,
        f"an id of type {column.type} cannot be used",
        where,
        expected=ID_TYPES,
        message=first_line,
    ):
        if pa.types.is_floating(column.type):
            column = _whole(column)
        return column.cast(kind)


def is_time_type(kind: pa.DataType) -> bool:
    """Whether `normalise_timestamps` accepts a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    is_other = pa.types.is_decimal(kind) or pa.types.is_null(kind) or _is_text(kind)
    return bool(is_number or is_time or is_other)


def normalise_timestamps(column: pa.Array, unit: str, time_zone: str = "UTC") -> pa.Array:
    """Convert a timestamp column to microseconds, UTC.

    NaN and text that is no time become null. Times outside the years 1..9999, infinities among
    them, are clipped to these years, where the row rules reject them.

    Args:
        column: Timestamps of any unit and zone, dates, ISO 8601 text, or numbers since the epoch.
        unit: The unit of the numbers, ``s``, ``ms``, ``us`` or ``ns``.
        time_zone: The IANA time zone of dates, and of timestamps and text that name none.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return column.cast(TIME)
    if _is_text(column.type):
        return _from_text(column, time_zone)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        times = _from_ticks(column.cast(pa.int64()), column.type.unit)
        return times if column.type.tz else _in_zone(times, time_zone)
    if pa.types.is_uint64(column.type):
        column = pc.min_element_wise(column, pa.scalar(2**63 - 1, pa.uint64()), skip_nulls=False)
    if pa.types.is_integer(column.type):
        return _from_ticks(column.cast(pa.int64()), unit)
    # Float64 is exact for every valid time, and cannot overflow for an invalid one.
    numbers = column.cast(pa.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    scale = 1e-3 if unit == "ns" else float(_MICROSECONDS[unit])
    exact = pc.round(pc.multiply(numbers, scale))
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


def is_event_type(kind: pa.DataType) -> bool:
    """Whether `plain_event_types` accepts a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind))


def plain_event_types(column: pa.Array) -> pa.Array:
    """Kinds of events as text; an empty text becomes null."""
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def is_value_type(kind: pa.DataType) -> bool:
    """Whether `plain_values` accepts a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(is_number or pa.types.is_null(kind) or _is_text(kind))


def plain_values(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Values of events as numbers.

    Args:
        column: Numbers, or text that holds them; NaN and empty text stand for null.

    Returns:
        The numbers as float64, null where one is infinite or a text is none; and as text, what is
        there in these places, null in all others.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        with duckdb.connect(config={"threads": 1}) as db:
            db.register("texts", pa.table({"text": column}))
            query = "SELECT TRY_CAST(text AS DOUBLE) AS number FROM texts"
            numbers = db.sql(query).to_arrow_table()["number"].combine_chunks()
    else:
        numbers = column.cast(pa.float64(), safe=False)
    is_nan = pc.fill_null(pc.is_nan(numbers), False)
    is_finite = pc.fill_null(pc.is_finite(numbers), False)
    odd = pc.and_not(pc.and_not(column.is_valid(), is_nan), is_finite)
    raw = pa.nulls(len(column), pa.string())
    if pc.any(odd).as_py():
        raw = pc.replace_with_mask(raw, odd, column.filter(odd).cast(pa.string()))
    return pc.if_else(is_finite, numbers, pa.scalar(None, pa.float64())), raw


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _hexadecimal(column: pa.Array, *, dashes: bool) -> pa.Array:
    """Fixed-size binary as hexadecimal text, with the dashes of a UUID."""
    width, rows = column.type.byte_width, len(column)
    digits = 2 * width
    buffer = column.buffers()[1]
    if not rows or not width or buffer is None:
        return pa.array(
            [None if value is None else "" for value in column.to_pylist()], pa.string()
        )
    content = memoryview(buffer)[column.offset * width : (column.offset + rows) * width]
    text = np.frombuffer(content.hex().encode(), np.uint8).reshape(rows, digits)
    if dashes:
        text = np.insert(text, (8, 12, 16, 20), ord("-"), axis=1)
    text = np.ascontiguousarray(text)
    ends = np.arange(rows + 1, dtype=np.int32) * text.shape[1]
    made = pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(text))
    return pc.if_else(column.is_valid(), made, pa.scalar(None, pa.string()))


def _whole(column: pa.Array) -> pa.Array:
    """Floats as int64; NaN becomes null.

    Raises:
        pa.ArrowInvalid: a number is not whole, or so large that floats skip integers.
    """
    limit = _EXACT[column.type.bit_width]
    numbers = column.cast(pa.float64())
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if pc.any(pc.greater(pc.abs(numbers), float(limit))).as_py():
        raise pa.ArrowInvalid(f"a float beyond {limit}, which has lost its last digits")
    return numbers.cast(pa.int64())


def _from_ticks(ticks: pa.Array, unit: str) -> pa.Array:
    """Whole numbers of a unit since the epoch as times."""
    if unit == "ns":
        return pc.divide(ticks, 1000).cast(TIME)
    scale = _MICROSECONDS[unit]
    return pc.multiply(_clamp(ticks, -(-_FIRST // scale), _LAST // scale), scale).cast(TIME)


def _in_zone(times: pa.Array, time_zone: str) -> pa.Array:
    """The instants at which clocks in a zone show what the times show in UTC."""
    if time_zone == "UTC":
        return times
    naive = times.cast(pa.timestamp("us"))
    zoned = pc.assume_timezone(naive, time_zone, ambiguous="earliest", nonexistent="earliest")
    return _clamp(zoned.cast(pa.int64()), _FIRST, _LAST).cast(TIME)


def _from_text(column: pa.Array, time_zone: str) -> pa.Array:
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("texts", pa.table({"text": column}))
        read = db.sql(
            f"""SELECT coalesce(regexp_matches(text, '{_OFFSET}'), false) AS has_offset,
                   CASE WHEN has_offset THEN epoch_us(TRY_CAST(text AS TIMESTAMPTZ))
                        ELSE epoch_us(TRY_CAST(text AS TIMESTAMP)) END AS ticks
            FROM texts"""
        ).to_arrow_table()
    times = _from_ticks(read["ticks"].combine_chunks(), "us")
    return pc.if_else(read["has_offset"].combine_chunks(), times, _in_zone(times, time_zone))


def _clamp(values: pa.Array, low: float, high: float) -> pa.Array:
    top = pc.min_element_wise(values, pa.scalar(high, values.type), skip_nulls=False)
    return pc.max_element_wise(top, pa.scalar(low, values.type), skip_nulls=False)
