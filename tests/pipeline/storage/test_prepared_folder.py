"""The buckets of users in a prepared folder, and whether it is still what it was."""

import hashlib
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.storage.prepared_folder import (
    BUCKET_SQL,
    count_users,
    open_prepared,
    prepared_hash,
    read_sequences,
    sequence_files,
)
from tests.helpers.prepared_folders import write_prepared

NUMBERS = [pa.int16(), pa.int32(), pa.int64(), pa.uint64()]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        *((kind, [0, 7, 1000]) for kind in NUMBERS),
        (pa.int64(), [-1, -(2**63), 2**63 - 1]),
        *((kind, ["", "user", "7", "größe", "中"]) for kind in TEXTS),
    ],
    ids=lambda each: str(each) if isinstance(each, pa.DataType) else "",
)
def test_a_bucket_is_of_the_text_of_an_id_alone(kind: pa.DataType, ids: list[Any]) -> None:
    users = pa.table({"user_id": pa.array(ids, kind)})
    with duckdb.connect() as db:
        db.register("users", users)
        found = db.sql(f"SELECT user_id, {BUCKET_SQL} FROM users").fetchall()
    assert dict(found) == {each: hashlib.md5(str(each).encode()).hexdigest()[0] for each in ids}


def test_batches_have_at_most_so_many_users(tmp_path: Path) -> None:
    write_prepared(tmp_path / "prepared", [[1]] * 23)
    batches = list(read_sequences(tmp_path / "prepared", ["user_id"], 3))
    assert max(map(len, batches)) == 3
    assert [user for batch in batches for user in batch["user_id"].to_pylist()] == list(range(23))
    assert count_users(tmp_path / "prepared") == 23


def test_a_folder_is_opened_only_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    write_prepared(folder, [[1, 2], [3]])
    expected = prepared_hash(folder)
    files = open_prepared(folder, expected)
    assert files is not None
    assert open_prepared(folder, "other") is None
    first = sequence_files(folder)[0]
    content = first.read_bytes()
    for path in sequence_files(folder):
        path.unlink()
    assert open_prepared(folder, expected) is None
    # What is open stays what it was.
    assert files.bucket(0).read_all()["item_index"].to_pylist() == [[1, 2]]
    assert files.sequences[0].to_pybytes() == content
