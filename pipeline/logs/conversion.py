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
TIME_TYPES = "timestamps, dates, ISO 8601 text, or numbers since the epoch, also as text"

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH = datetime(1970, 1, 1)
# The years 1 to 9999 in microseconds. Times beyond cannot be shown as text and are bad rows anyway.
_FIRST = (datetime.min - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max - _EPOCH) // timedelta(microseconds=1)
# After the clock of a time as text: anything more, and what of it is certainly a zone. DuckDB's
# TIMESTAMP overlooks the former, and its TIMESTAMPTZ takes PST for a place with summer time.
_MORE = r":[\d:.]*\s*[^\d:.\s]"
_ZONE = r"(?i):[\d:.]*\s*(Z|UTC|GMT|[+-](0\d|1[0-5])(:?[0-5]\d)?|[a-z]+/[a-z_/+-]+\d*)\s*$"
_WHOLE = r"^(-?[1-9][0-9]*|0)(\.0*)?$"
_NUMBER = r"^\s*[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*$"
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


def widest_id_type(kind: pa.DataType) -> pa.DataType:
    """The type to compare ids of type `kind` with others in, which may be wider."""
    return pa.int64() if pa.types.is_integer(kind) else pa.string()


def plain_ids(column: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    """Ids of a type that `plain_id_type` knows, as type `kind`.

    NaN becomes null. UUIDs become text in their usual form, other binary becomes hexadecimal. Text
    becomes a number only where it is written as numbers are, without zeros in front.

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
        if is_text(column.type) and pa.types.is_integer(kind):
            column = _digits(column)
        return column.cast(kind)


def is_time_type(kind: pa.DataType) -> bool:
    """Whether `normalise_timestamps` accepts a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    is_other = pa.types.is_decimal(kind) or pa.types.is_null(kind) or is_text(kind)
    return bool(is_number or is_time or is_other)


def normalise_timestamps(column: pa.Array, unit: str, time_zone: str = "UTC") -> pa.Array:
    """Convert a timestamp column to microseconds, UTC.

    NaN and text that is no time become null. Times outside the years 1..9999, infinities among
    them, are clipped to these years, where the row rules reject them.

    Args:
        column: Timestamps of any unit and zone, dates, ISO 8601 text, or numbers since the epoch,
            which may be text too (`time_sql`).
        unit: The unit of the numbers, ``s``, ``ms``, ``us`` or ``ns``.
        time_zone: The IANA time zone of dates, and of timestamps and text that name none.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return column.cast(TIME)
    if is_text(column.type):
        return _from_text(column, unit, time_zone)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        times = _from_ticks(column.cast(pa.int64()), column.type.unit)
        return times if column.type.tz else _in_zone(times, time_zone)
    if pa.types.is_uint64(column.type):
        column = pc.min_element_wise(column, pa.scalar(2**63 - 1, pa.uint64()), skip_nulls=False)
    if pa.types.is_integer(column.type):
        return _from_ticks(column.cast(pa.int64()), unit)
    return _from_floats(column.cast(pa.float64(), safe=False), unit)


def _from_floats(numbers: pa.Array, unit: str) -> pa.Array:
    """Numbers of a unit since the epoch as times; NaN becomes null.

    Float64 is exact for every valid time, and cannot overflow for an invalid one.
    """
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
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type):
        column = column.cast(pa.string())  # views cannot be filtered
    return pc.replace_with_mask(text, odd, column.filter(odd).cast(pa.string()))


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is that of strings, however Arrow stores them."""
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


def _digits(column: pa.Array) -> pa.Array:
    """Text of whole numbers, without a fraction of zeros.

    Raises:
        pa.ArrowInvalid: a text is something else, such as 007.
    """
    text = column.cast(pa.string())
    odd = pc.invert(pc.match_substring_regex(text, _WHOLE))
    if pc.any(odd).as_py():
        raise pa.ArrowInvalid(f"the text {text.filter(odd)[0].as_py()!r}, where ids are integers")
    return whole_numbers_as_text(text)


def whole_numbers_as_text(text: pa.Array) -> pa.Array:
    """Text, where `7.0` is `7`: pandas writes integers so in a column with a missing one."""
    return pc.replace_substring_regex(text, _WHOLE, r"\1")


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


def time_sql(text: str) -> str:
    """The DuckDB expression of a text as a time; NULL if it is none.

    It may end with Z, UTC, GMT, an offset such as +02:00, or a place such as Europe/Berlin. Without
    any of them it is of the connection's time zone. With anything else after the clock, such as PM
    or EST, it is no time.
    """
    return f"""CASE WHEN NOT regexp_matches({text}, '{_MORE}') THEN TRY_CAST({text} AS TIMESTAMPTZ)
        WHEN regexp_matches({text}, '{_ZONE}') THEN coalesce(TRY_CAST({text} AS TIMESTAMPTZ),
        TRY_CAST(replace(replace(trim({text}), ' +', '+'), ' -', '-') AS TIMESTAMPTZ)) END"""


def _from_text(column: pa.Array, unit: str, time_zone: str) -> pa.Array:
    with duckdb.connect(config={"threads": 1}) as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("texts", pa.table({"text": column}))
        read = db.sql(
            f"""SELECT coalesce(regexp_matches(text, '{_MORE}'), false) AS has_zone,
                   epoch_us({time_sql("text")}) AS ticks,
                   CASE WHEN regexp_matches(text, '{_NUMBER}')
                        THEN TRY_CAST(text AS DOUBLE) END AS number
            FROM texts"""
        ).to_arrow_table()
    times = _from_ticks(read["ticks"].combine_chunks(), "us")
    times = pc.if_else(read["has_zone"].combine_chunks(), times, _in_zone(times, time_zone))
    return pc.coalesce(_from_floats(read["number"].combine_chunks(), unit), times)


def _clamp(values: pa.Array, low: float, high: float) -> pa.Array:
    top = pc.min_element_wise(values, pa.scalar(high, values.type), skip_nulls=False)
    return pc.max_element_wise(top, pa.scalar(low, values.type), skip_nulls=False)
