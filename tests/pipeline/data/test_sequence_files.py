"""The files of histories: a bucket's users in each, in order, and bytes that depend on them."""

import hashlib
import tempfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.data import sequence_files
from pipeline.data.sequence_files import BucketFile, Totals, write_histories
from pipeline.schema import TIME, prepared_schema
from pipeline.storage.prepared_folder import BUCKETS
from pipeline.storage.prepared_folder import sequence_files as files_of

START = datetime(2026, 6, 1, tzinfo=UTC)


def histories(lengths: list[int]) -> pa.RecordBatch:
    users = pa.array([f"user{number:03}" for number in range(len(lengths))])
    columns = prepared_schema(pa.string())
    lists = [[[START] * n for n in lengths], [list(range(1, n + 1)) for n in lengths]]
    arrays = [pa.array(each, kind) for each, kind in zip(lists, columns.types[1:], strict=True)]
    return pa.record_batch([users, *arrays], columns)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    cuts=st.sets(st.integers(1, 29)),
    other_cuts=st.sets(st.integers(1, 29)),
)
@tuned(max_examples=30)
def test_a_file_depends_on_its_histories_not_on_how_they_come(
    lengths: list[int], cuts: set[int], other_cuts: set[int]
) -> None:
    whole = histories(lengths)
    contents = []
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_files, "_BATCH_EVENTS", 8)
        for each in (cuts, other_cuts, set[int]()):
            path, totals = Path(name) / "0.arrow", Totals()
            bounds = sorted({0, len(lengths), *(cut for cut in each if cut < len(lengths))})
            with BucketFile(path, whole.schema, totals) as file:
                for begin, end in pairwise(bounds):
                    file.add(whole.slice(begin, end - begin))
            contents.append(path.read_bytes())
            with pa.memory_map(str(path)) as mapped:
                written = pa.ipc.open_file(mapped)
                assert pa.Table.from_batches([whole]).equals(written.read_all())
                sizes = [
                    len(written.get_batch(number)["item_index"].flatten())
                    for number in range(written.num_record_batches)
                ]
            assert all(8 <= size < 8 + 9 for size in sizes[:-1])
            assert (totals.users, totals.events) == (len(lengths), sum(lengths))
    assert len(set(contents)) == 1


@pytest.mark.parametrize("kind", [pa.int32(), pa.string()], ids=str)
def test_every_user_is_in_the_file_of_the_bucket(tmp_path: Path, kind: pa.DataType) -> None:
    ids = [value if kind == pa.int32() else f"u{value}" for value in range(-100, 100)]
    ordered = pa.table(
        {
            "user_id": pa.array(sorted(ids), kind),
            "item_index": pa.array([1] * 200, pa.int32()),
            "timestamp": pa.array([START] * 200, TIME),
            "ordinal": pa.array(range(200), pa.int64()),
        }
    )
    totals = write_histories(tmp_path, kind, ordered.to_reader(max_chunksize=17))
    assert (totals.users, totals.first, totals.last) == (200, START, START)
    for bucket, path in zip(BUCKETS, files_of(tmp_path), strict=True):
        with pa.memory_map(str(path)) as mapped:
            found = pa.ipc.open_file(mapped).read_all()["user_id"].to_pylist()
        of_bucket = [i for i in ids if hashlib.md5(str(i).encode()).hexdigest()[0] == bucket]
        assert found == sorted(of_bucket)
        assert found
