"""Columns that logs need not have, as the warehouse has them: kinds of events, and their values."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.logs.conversion import is_text

# For error messages.
EVENT_TYPES = "strings or whole numbers"
VALUE_TYPES = "numbers, or text that holds them"


def is_event_type(kind: pa.DataType) -> bool:
    """Whether `plain_event_types` accepts a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_null(kind) or is_text(kind))


def plain_event_types(column: pa.Array) -> pa.Array:
    """Kinds of events as text; an empty text becomes null."""
    text = column.cast(pa.string())
    if text.null_count == len(text):
        return text
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def is_value_type(kind: pa.DataType) -> bool:
    """Whether `plain_values` accepts a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(is_number or pa.types.is_null(kind) or is_text(kind))


def plain_values(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Values of events as numbers.

    Args:
        column: Numbers, or text that holds them; NaN and empty text stand for null.

    Returns:
        The numbers as float64, null where one is infinite or a text is none; and as text, what is
        there in these places, null in all others.
    """
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.float64()), pa.nulls(len(column), pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type):
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
