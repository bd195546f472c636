"""Bits of small Parquet files flipped: a file is refused by name, or has all its rows."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import FearecError, UnreadableFileError
from pipeline.logs.id_lists import read_ids
from pipeline.logs.items_table import read_items_table
from pipeline.logs.log_content import read_batches, read_footer, readable
from pipeline.logs.log_files import list_log_files

COLUMNS: dict[str, list[Any]] = {
    "user_id": [1, 2, 3],
    "item_id": ["a", "b", "c"],
    "timestamp": [1780000000, 1780000001, 1780000002],
    "title": ["A", "B", "C"],
}
MAGIC = 4  # bytes, at both ends
BITS = (0, 4, 7)  # of each byte; the last makes text that is not UTF-8


def with_a_bit_flipped(path: Path, *columns: str) -> Iterator[None]:
    """A file of the columns with bits of every byte flipped in turn, but for the magic ones."""
    table = pa.table({name: COLUMNS[name] for name in columns})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, store_schema=False, **options)
    whole = path.read_bytes()
    for position in range(MAGIC, len(whole) - MAGIC):
        for bit in BITS:
            spoilt = bytearray(whole)
            spoilt[position] ^= 1 << bit
            path.write_bytes(spoilt)
            yield


def test_no_flipped_bit_loses_a_row_of_a_log(tmp_path: Path) -> None:
    refused = 0
    for _ in with_a_bit_flipped(tmp_path / "a.parquet", "user_id", "item_id", "timestamp"):
        (file,) = list_log_files(tmp_path)
        with suppress(UnreadableFileError), readable(file):
            refused += 1
            assert read_footer(file).num_rows == len(COLUMNS["user_id"])
            assert sum(map(len, read_batches(file, list(COLUMNS), 2))) == len(COLUMNS["user_id"])
            refused -= 1
    assert refused > 100


@pytest.mark.parametrize(
    ("read", "columns"),
    [
        (lambda path: read_ids(path, "item_id", pa.string(), "the bundle"), ["item_id"]),
        (read_items_table, ["item_id", "title"]),
    ],
    ids=["file of ids", "items table"],
)
def test_no_flipped_bit_is_a_traceback(
    read: Callable[[Path], Any], columns: list[str], tmp_path: Path
) -> None:
    refused = 0
    for _ in with_a_bit_flipped(tmp_path / "a.parquet", *columns):
        try:
            read(tmp_path / "a.parquet")
        except FearecError:
            refused += 1
    assert refused > 100
