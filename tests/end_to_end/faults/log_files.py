"""Log files of a hundred kinds: damaged ones, odd ones, and good ones by other writers."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.damages import DAMAGES, flipped

ROWS, USERS, ITEMS = 80, 30, 40
NOON = datetime(2026, 6, 30, 12, tzinfo=UTC)
SECONDS = int(NOON.timestamp())
_DICTIONARY = pa.dictionary(pa.int8(), pa.string())
_ODD = ["", " ", "\0", "\n", "é" * 9, "'; --"]

Make = Callable[[Path, Random], None]


@dataclass(frozen=True)
class LogKind:
    """A kind of log file.

    Attributes:
        name: Of the kind.
        make: Writes one.
        is_good: Whether it has to be read; otherwise it may be refused.
    """

    name: str
    make: Make
    is_good: bool


def rows(chance: Random) -> dict[str, list[Any]]:
    """The columns of a log with nothing wrong but for a few bad and doubled rows."""
    users: list[Any] = [chance.randrange(USERS) for _ in range(ROWS)]
    items: list[Any] = [f"item-{chance.randrange(ITEMS):02}" for _ in range(ROWS)]
    times: list[Any] = [NOON - timedelta(minutes=chance.randrange(9000)) for _ in range(ROWS)]
    for column in (users, items, times):
        column[chance.randrange(ROWS)] = None
    times[chance.randrange(ROWS)] = datetime(1985, 1, 1, tzinfo=UTC)
    times[chance.randrange(ROWS)] = NOON + timedelta(days=9)
    columns = {"user_id": users, "item_id": items, "timestamp": times}
    for column in columns.values():
        column.append(column[0])
    return columns


def whole(path: Path, chance: Random) -> None:
    """A good file, as one of many writers would write it."""
    pq.write_table(
        pa.table(rows(chance)),
        path,
        # Flipped bits of a compressed page are nearly always refused, of another one decoded.
        compression=chance.choice(["none", "none", "none", "snappy", "gzip", "brotli", "zstd"]),
        use_dictionary=chance.random() < 0.5,
        data_page_version=chance.choice(["1.0", "2.0"]),
        row_group_size=chance.choice([7, 1000]),
        write_page_index=chance.random() < 0.3,
        write_page_checksum=chance.random() < 0.3,
    )


def _damaged(change: Callable[[bytes, int, Random], bytes]) -> Make:
    """A good file whose content, with the position of its footer, is changed."""

    def make(path: Path, chance: Random) -> None:
        whole(path, chance)
        content = path.read_bytes()
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        path.write_bytes(change(content, footer, chance))

    return make


def _by_damage(name: str) -> Make:
    def make(path: Path, chance: Random) -> None:
        whole(path, chance)
        DAMAGES[name](path, chance)

    return make


def _with(name: str, values: Callable[[Any, Random], Any], kind: pa.DataType | None = None) -> Make:
    """A good file with each value of one column, null excepted, replaced."""

    def make(path: Path, chance: Random) -> None:
        columns: dict[str, Any] = rows(chance)
        changed = [None if old is None else values(old, chance) for old in columns[name]]
        columns[name] = pa.array(changed, kind)
        pq.write_table(pa.table(columns), path)

    return make


def _of_table(change: Callable[[pa.Table, Random], pa.Table], **options: Any) -> Make:
    def make(path: Path, chance: Random) -> None:
        pq.write_table(change(pa.table(rows(chance)), chance), path, **options)

    return make


def _seconds(factor: float) -> Callable[[datetime, Random], float]:
    def convert(time: datetime, _: Random) -> float:
        return time.timestamp() * factor

    return convert


def _whole_seconds(factor: int) -> Callable[[datetime, Random], int]:
    return lambda time, _: int(time.timestamp()) * factor


def _nulls(table: pa.Table, chance: Random) -> pa.Table:
    columns = {
        name: [None if chance.random() < 0.3 else value for value in table[name].to_pylist()]
        for name in table.column_names
    }
    return pa.table(columns, table.schema)


def _untyped(table: pa.Table, rows: int) -> pa.Table:
    return pa.table({name: pa.nulls(rows) for name in table.column_names})


def _nested(table: pa.Table, chance: Random) -> pa.Table:
    deep = pa.array([[{"a": [1, None], "b": {"c": "x"}}]] * len(table))
    return table.append_column("event", deep).append_column("tags", pa.array([["a"]] * len(table)))


def _struct_of_ids(table: pa.Table, chance: Random) -> pa.Table:
    return pa.table({**{n: table[n] for n in ("item_id", "timestamp")}, "user_id": pa.array(
        [{"user_id": value} for value in table["user_id"].to_pylist()])})  # fmt: skip


def _twice(path: Path, chance: Random) -> None:
    table = pa.table(rows(chance))
    names = [*table.column_names, chance.choice(table.column_names)]
    pq.write_table(pa.table([*table.columns, table[names[-1]]], names=names), path)


def _int96(path: Path, chance: Random) -> None:
    columns: dict[str, Any] = rows(chance)
    years = [2026, 1600, 2594, 9999]
    naive = [
        None if time is None else time.replace(tzinfo=None, year=chance.choice(years), day=1)
        for time in columns["timestamp"]
    ]
    columns["timestamp"] = pa.array(naive, pa.timestamp("us"))
    pq.write_table(pa.table(columns), path, use_deprecated_int96_timestamps=True)


def _numbers_of_all_sizes(path: Path, chance: Random) -> None:
    columns: dict[str, Any] = rows(chance)
    odd = [0, -1, 1 << 62, -(1 << 62), SECONDS, SECONDS * 1000, 10**15]
    columns["timestamp"] = [chance.choice(odd) for _ in columns["timestamp"]]
    pq.write_table(pa.table(columns), path)


def _floats_of_all_sizes(path: Path, chance: Random) -> None:
    columns: dict[str, Any] = rows(chance)
    odd = [np.nan, np.inf, -np.inf, 1e300, -1e300, SECONDS + 0.25, 0.0, 5e-324]
    columns["timestamp"] = pa.array([chance.choice(odd) for _ in columns["timestamp"]])
    pq.write_table(pa.table(columns), path)


def _texts_of_times(path: Path, chance: Random) -> None:
    columns: dict[str, Any] = rows(chance)
    texts = ["2026-06-01 10:00:00", "2026-06-01T10:00:00+00:00", "yesterday", "", "2026-13-01"]
    texts += ["2026-06-01", "2026-06-01 10:00:00.123456", "2030-01-01 00:00:00"]
    columns["timestamp"] = [chance.choice(texts) for _ in columns["timestamp"]]
    pq.write_table(pa.table(columns), path)


def _not_utf8(path: Path, chance: Random) -> None:
    columns: dict[str, Any] = rows(chance)
    items = [b"item-\xff\xfe" if chance.random() < 0.1 else b"item-01" for _ in range(ROWS + 1)]
    binary = pa.array(items, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())
    columns["item_id"] = text
    pq.write_table(pa.table(columns), path)


def _text_file(path: Path, chance: Random) -> None:
    lines = ["user_id,item_id,timestamp", *(f"{n},item-01,{SECONDS}" for n in range(ROWS))]
    path.write_text("\n".join(lines))


def _footer_length(path: Path, chance: Random) -> None:
    whole(path, chance)
    length = chance.choice(
        [0, 1, 2**31 - 1, 2**32 - 1, path.stat().st_size, chance.randrange(2**32)]
    )
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<I", length) + b"PAR1")


def _swapped(content: bytes, footer: int, chance: Random) -> bytes:
    middle = chance.randrange(4, footer)
    return content[:4] + content[middle:footer] + content[4:middle] + content[footer:]


def _cut_out(content: bytes, footer: int, chance: Random) -> bytes:
    begin = chance.randrange(footer)
    return content[:begin] + content[begin + chance.randint(1, 40) :]


def _in_pages(content: bytes, footer: int, chance: Random) -> bytes:
    return content[:4] + flipped(content[4:footer], chance, most=3) + content[footer:]


def _in_footer(content: bytes, footer: int, chance: Random) -> bytes:
    return content[:footer] + flipped(content[footer:-8], chance, most=2) + content[-8:]


# Those that may be refused; the first five are most of what is tried.
DAMAGED: dict[str, Make] = {
    "bits of the footer": _damaged(_in_footer),
    "bits of the pages": _damaged(_in_pages),
    "bits anywhere": _by_damage("flipped bits"),
    "cut short": _by_damage("cut short"),
    "zeros": _by_damage("zeros"),
    "empty": _by_damage("empty"),
    "random bytes": _by_damage("random bytes"),
    "longer": _by_damage("longer"),
    "length of the footer": _footer_length,
    "pages swapped": _damaged(_swapped),
    "a piece cut out": _damaged(_cut_out),
    "footer alone": _damaged(lambda content, footer, _: content[footer:]),
    "twice in one": _damaged(lambda content, *_: content + content),
    "text": _text_file,
    "structs for ids": _of_table(_struct_of_ids),
    "lists for ids": _with("item_id", lambda old, _: [old]),
    "a column missing": _of_table(lambda t, c: t.drop_columns([c.choice(t.column_names)])),
    "a column twice": _twice,
    "other columns": _of_table(lambda t, _: t.rename_columns(["a", "b", "c"])),
    "the other way round": _of_table(
        lambda t, _: t.rename_columns(["item_id", "user_id", "timestamp"])
    ),
    "users as text": _with("user_id", lambda old, _: str(old)),
    "users as floats": _with("user_id", lambda old, c: old + c.choice([0, 0.5, np.nan])),
    "huge floats": _with("user_id", lambda _, c: c.choice([2.0**53 + 2, 1e300, -np.inf])),
    "huge users": _with("user_id", lambda old, c: old + c.choice([0, 2**63]), pa.uint64()),
    "users as bytes": _with("user_id", lambda old, _: bytes([old])),
    "users as booleans": _with("user_id", lambda old, _: old % 2 == 0),
    "items not in UTF-8": _not_utf8,
    "times of day": _with("timestamp", lambda old, _: old.time()),
    "durations": _with("timestamp", lambda old, _: timedelta(days=1)),
}
# Those that have to be read.
GOOD: dict[str, Make] = {
    "any writer": whole,
    "nulls": _of_table(_nulls),
    "nested columns beside": _of_table(_nested),
    "no rows": _of_table(lambda t, _: t.slice(0, 0)),
    "no rows, no types": _of_table(lambda t, _: _untyped(t, 0)),
    "no columns": _of_table(lambda t, _: t.slice(0, 0).select([])),
    "nothing but null": _of_table(lambda t, _: _untyped(t, 9)),
    "users as whole floats": _with("user_id", lambda old, _: float(old)),
    "narrow users": _with("user_id", lambda old, _: old, pa.uint8()),
    "decimal users": _with("user_id", lambda old, _: Decimal(old), pa.decimal128(20, 0)),
    "items as fixed bytes": _with("item_id", lambda old, _: old.encode(), pa.binary(7)),
    "items in a dictionary": _with("item_id", lambda old, _: old, _DICTIONARY),
    "large items": _with("item_id", lambda old, _: old * 50, pa.large_string()),
    "odd items": _with("item_id", lambda old, c: c.choice([*_ODD, old])),
    "seconds": _with("timestamp", _whole_seconds(1)),
    "milliseconds": _with("timestamp", _whole_seconds(10**3)),
    "nanoseconds": _with("timestamp", _whole_seconds(10**9)),
    "seconds as floats": _with("timestamp", _seconds(1.0)),
    "milliseconds as floats": _with("timestamp", _seconds(1e3)),
    "numbers of all sizes": _numbers_of_all_sizes,
    "floats of all sizes": _floats_of_all_sizes,
    "INT96": _int96,
    "dates": _with("timestamp", lambda old, _: old.date(), pa.date32()),
    "times in nanoseconds": _with("timestamp", lambda old, _: old, pa.timestamp("ns")),
    "texts of times": _texts_of_times,
}
_MOST = 5


def kind_of(number: int) -> LogKind:
    """The kind of one of many log files: each once, then the first damaged ones again."""
    names = [*DAMAGED, *GOOD]
    name = names[number] if number < len(names) else names[(number - len(names)) % _MOST]
    return LogKind(name, (DAMAGED | GOOD)[name], name in GOOD)
