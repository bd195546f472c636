"""The rows of one log file by brute force: Arrow's Python values, and the documented row rules.

A damaged page may decode to other values: Parquet has checksums, but few writers write them. So
what Arrow itself reads from the file as it is counts as its rows.
"""

import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

EPOCH = datetime(1970, 1, 1)
_FIRST, _LAST = (
    (year - EPOCH) // timedelta(microseconds=1) for year in (datetime.min, datetime.max)
)
_EARLIEST = (datetime(1990, 1, 1) - EPOCH) // timedelta(microseconds=1)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_WHOLE = {16: 2**11, 32: 2**24, 64: 2**53}  # the largest whole floats

Event = tuple[Any, Any, int]  # with microseconds since the epoch


class UnusableFileError(Exception):
    """The file cannot be read, or has a column that cannot be used."""


@dataclass(frozen=True)
class LogRows:
    """The rows of one log file.

    Attributes:
        good: The good ones, repeats included.
        bad: User and item as text, and the reason.
    """

    good: list[Event]
    bad: list[tuple[str | None, str | None, str]]


def rows_of_log(path: Path, run_date: date) -> LogRows:
    """The rows of a log file with whole numbers as users, text as items, and seconds as times.

    Raises:
        UnusableFileError: fearec has to refuse the file.
    """
    try:
        with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
            groups = range(file.metadata.num_row_groups)
            if not sum(file.metadata.row_group(group).num_rows for group in groups):
                return LogRows([], [])
            names = file.schema_arrow.names
            if any(names.count(name) != 1 for name in ("user_id", "item_id", "timestamp")):
                raise UnusableFileError(f"columns {names}")
            table = file.read(["user_id", "item_id", "timestamp"])
            table.validate(full=True)
            users = _ids(table["user_id"], int)
            items = _ids(table["item_id"], str)
            times = _times(table["timestamp"])
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise UnusableFileError(str(error)) from error
    end = (datetime(run_date.year, run_date.month, run_date.day) - EPOCH) + timedelta(days=1)
    good, bad = [], []
    for user, item, time in zip(users, items, times, strict=True):
        reason = _reason(user, item, time, end // timedelta(microseconds=1))
        if reason:
            bad.append((None if user is None else str(user), item, reason))
        else:
            good.append((user, item, time))
    return LogRows(good, bad)


def write_rows_of_log(arguments: list[str]) -> None:
    """Pickle the rows of a log file, None of an unusable one, in a process that may crash.

    Args:
        arguments: The log file, the run date, the file to write.
    """
    path, run_date, result = arguments
    rows: LogRows | None = None
    with suppress(UnusableFileError):
        rows = rows_of_log(Path(path), date.fromisoformat(run_date))
    Path(result).write_bytes(pickle.dumps(rows))


def _reason(user: Any, item: Any, time: int | None, end: int) -> str | None:
    if user is None:
        return "null user_id"
    if item is None:
        return "null item_id"
    if time is None:
        return "null timestamp"
    if time < _EARLIEST:
        return "timestamp before 1990"
    return "timestamp after the run date" if time >= end else None


def _ids(column: pa.ChunkedArray, expected: type) -> list[Any]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if isinstance(kind, pa.UuidType) or pa.types.is_fixed_size_binary(kind):
        is_text, convert = True, _as_text
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        is_text, convert = True, str
    elif pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        is_text, convert = False, int
    elif pa.types.is_floating(kind):
        is_text, convert = False, _whole(_WHOLE[kind.bit_width])
    else:
        raise UnusableFileError(f"ids of type {kind}")
    if is_text != (expected is str):
        raise UnusableFileError(f"ids of type {kind}")
    ids = [None if value is None else convert(value) for value in column.to_pylist()]
    if not is_text and any(value is not None and not -(2**63) <= value < 2**63 for value in ids):
        raise UnusableFileError("an id beyond 64 bits")
    return ids


def _as_text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _whole(limit: int) -> Callable[[float], int | None]:
    def convert(value: float) -> int | None:
        if math.isnan(value):
            return None
        if abs(value) > limit or value != int(value):
            raise UnusableFileError(f"id {value}")
        return int(value)

    return convert


def _times(column: pa.ChunkedArray) -> list[int | None]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_timestamp(kind):
        unit = _PER_SECOND[kind.unit]
        values = [value.cast(pa.int64()).as_py() for chunk in column.chunks for value in chunk]
        return [None if value is None else _clipped(value * 10**6 // unit) for value in values]
    if pa.types.is_date(kind):
        values = column.cast(pa.timestamp("ms")).cast(pa.int64()).to_pylist()
        return [None if value is None else _clipped(value * 1000) for value in values]
    values = column.to_pylist()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return [None if value is None else _of_text(value) for value in values]
    if pa.types.is_integer(kind):
        return [None if value is None else _clipped(value * 10**6) for value in values]
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return [None if value is None else _of_number(value) for value in values]
    raise UnusableFileError(f"times of type {kind}")


def _clipped(microseconds: int) -> int:
    return min(max(microseconds, _FIRST), _LAST)


def _of_number(value: float | Decimal) -> int | None:
    number = float(value)
    if math.isnan(number):
        return None
    return (
        _clipped(round(number * 1e6))
        if math.isfinite(number)
        else int(math.copysign(_LAST, number))
    )


def _of_text(value: str) -> int | None:
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    if time.tzinfo:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return (time - EPOCH) // timedelta(microseconds=1)
