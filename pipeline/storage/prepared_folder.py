"""A prepared folder: what `prepare` writes and everything later reads.

`sequences/` has one Arrow IPC file per bucket of users, `items.parquet` the vocabulary. A user's
bucket is the first hexadecimal digit of the MD5 of the id as text, so it is the same for an id as
int32 or int64, as string or large_string, with any version of any library. The histories are in the
order of the buckets, and within a bucket in that of the user ids, texts by their UTF-8 bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import naming
from pipeline.schema import (
    EVENT_TYPE,
    EVENT_TYPES_FILE,
    ITEM_ID,
    ITEMS_FILE,
    SEQUENCES,
    USER_ID,
)
from pipeline.storage.content_hash import content_hash

BUCKETS = "0123456789abcdef"
BUCKET_SQL = f"md5(CAST({USER_ID} AS VARCHAR))[1]"  # of a user, in DuckDB


def sequence_files(folder: Path) -> list[Path]:
    """The files of the histories in a prepared folder, that of the first bucket first."""
    return [folder / SEQUENCES / f"{bucket}.arrow" for bucket in BUCKETS]


def read_sequences(
    folder: Path, columns: Sequence[str], batch_rows: int | None = None
) -> Iterator[pa.RecordBatch]:
    """The histories in a prepared folder, bucket by bucket, from mapped files.

    Args:
        folder: The prepared folder.
        columns: Names of `prepared_schema`.
        batch_rows: The most users per batch; None leaves the batches as they were written, of about
            a million events.
    """
    for path in sequence_files(folder):
        with naming(path), pa.memory_map(str(path)) as mapped:
            yield from batches_of(pa.ipc.open_file(mapped), columns, batch_rows)


def batches_of(
    file: pa.ipc.RecordBatchFileReader, columns: Sequence[str], batch_rows: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Some columns of the histories in one file; see `read_sequences`."""
    for number in range(file.num_record_batches):
        batch = file.get_batch(number).select(columns)
        step = batch_rows or max(1, len(batch))
        for begin in range(0, len(batch), step):
            yield batch.slice(begin, step)


@dataclass(frozen=True)
class PreparedFiles:
    """A prepared folder whose files are mapped: they stay what they are, even when removed.

    Attributes:
        sequences: The content per bucket.
        item_counts: That of `items.parquet`.
        event_types: That of `event_types.parquet`, where it is there.
    """

    sequences: Sequence[pa.Buffer]
    item_counts: pa.Buffer
    event_types: pa.Buffer | None = None

    @property
    def columns(self) -> pa.Schema:
        """Those of the histories."""
        return self.bucket(0).schema

    def bucket(self, number: int) -> pa.ipc.RecordBatchFileReader:
        """The histories of a bucket."""
        return pa.ipc.open_file(self.sequences[number])

    def items(self) -> pa.NativeFile:
        """`items.parquet`, to be read."""
        return pa.BufferReader(self.item_counts)


def open_prepared(folder: Path, expected_hash: str) -> PreparedFiles | None:
    """A prepared folder, if it has the content that it is known to have, or None."""
    try:
        contents = [pa.memory_map(str(path)).read_buffer() for path in prepared_files(folder)]
    except (OSError, pa.ArrowInvalid):
        return None
    if _hash_of([hashlib.sha256(content).hexdigest() for content in contents]) != expected_hash:
        return None
    n = len(BUCKETS)
    return PreparedFiles(contents[:n], *contents[n:])


def count_users(folder: Path) -> int:
    """The users in a prepared folder."""
    return sum(len(batch) for batch in read_sequences(folder, [USER_ID]))


def id_types(folder: Path) -> tuple[pa.DataType, pa.DataType]:
    """The types of the user ids and of the item ids in a prepared folder."""
    with pa.memory_map(str(sequence_files(folder)[0])) as mapped:
        users = pa.ipc.open_file(mapped).schema.field(USER_ID).type
    return users, pq.read_schema(folder / ITEMS_FILE).field(ITEM_ID).type


def event_type_names(folder: Path) -> pa.Array | None:
    """The types of events in a prepared folder, that of index 1 first.

    None where the folder was prepared without them, as `logs.event_type` was not set.
    """
    path = folder / EVENT_TYPES_FILE
    if not path.exists():
        return None
    return pq.read_table(path, columns=[EVENT_TYPE])[EVENT_TYPE].combine_chunks()


def prepared_hash(folder: Path) -> str:
    """The `Prepared.content_hash` of a folder.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    return _hash_of([content_hash(path) for path in prepared_files(folder)])


def prepared_files(folder: Path) -> list[Path]:
    """All files of a prepared folder."""
    event_types = folder / EVENT_TYPES_FILE
    optional = [event_types] if event_types.exists() else []
    return [*sequence_files(folder), folder / ITEMS_FILE, *optional]


def _hash_of(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
