"""The rows of a log's files: their types, checked, and the stream of all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import pyarrow as pa

from pipeline.config.sections import LogSettings
from pipeline.logs.conversion import normalise_timestamps, plain_ids, raw_timestamps
from pipeline.logs.event_columns import plain_event_types, plain_values
from pipeline.logs.log_content import Footer, read_batches, read_footer, readable
from pipeline.logs.log_files import LogFile
from pipeline.logs.validation import IdTypes, check_columns, common_types
from pipeline.schema import EVENT_TYPE, ITEM_ID, TIME, TIMESTAMP, USER_ID, VALUE
from pipeline.storage.scratch_db import own_errors

_BATCH_ROWS = 1 << 18


def check_log_files(
    footers: Mapping[LogFile, Footer], logs: LogSettings, stored: Mapping[str, IdTypes]
) -> IdTypes:
    """The id types wide enough for all files, whose columns are checked.

    Args:
        footers: Of the files of a log; those without rows may have any columns.
        logs: Their columns.
        stored: Other id types that the files must agree with, by where they come from.

    Raises:
        SchemaError: a column is missing, has a wrong type, or differs in kind between files.
    """
    types = {
        file.path: IdTypes(pa.null(), pa.null())
        if footer.num_rows == 0
        else check_columns(footer.columns, logs, file.path)
        for file, footer in footers.items()
    }
    return common_types({**stored, **types})


@contextmanager
def log_rows(
    files: Sequence[LogFile],
    logs: LogSettings,
    types: IdTypes,
    usual: tuple[datetime, datetime] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[pa.RecordBatchReader]:
    """The rows of checked files, in order, as a stream to be read inside the ``with`` block.

    The columns are ``user_id``, ``item_id``, ``timestamp`` (microseconds, UTC), ``file`` (int32,
    position in `files`), ``row`` (int64, from 0 in each file), ``raw_timestamp`` (the file's own
    value as text, where the time is null or not in the interval `usual`; otherwise null),
    ``event_type`` (text), ``value`` (float64) and ``raw_value`` (the file's own value as text,
    where it is no finite number; otherwise null). The last three are null where the logs have no
    such column.

    Args:
        files: The files.
        logs: Their columns.
        types: Their id types.
        usual: See above.
        progress: Called with the bytes of the files read so far, and of all files.

    Raises:
        UnreadableFileError: a file cannot be read. DuckDB, which reads the stream, raises an error
            of its own then; this one replaces it.
        SchemaError: an id is not a whole number or does not fit; likewise.
    """
    schema = pa.schema(
        [
            (USER_ID, types.user),
            (ITEM_ID, types.item),
            (TIMESTAMP, TIME),
            ("file", pa.int32()),
            ("row", pa.int64()),
            ("raw_timestamp", pa.string()),
            (EVENT_TYPE, pa.string()),
            (VALUE, pa.float64()),
            ("raw_value", pa.string()),
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        done, total = 0, sum(file.size for file in files)
        for position, file in enumerate(files):
            with readable(file):
                for batch, share in _read(file, position, logs, schema, usual):
                    progress(done + round(share * file.size), total)
                    yield batch
                done += file.size

    with own_errors(schema, batches()) as rows:
        yield rows


def _read(
    file: LogFile,
    position: int,
    logs: LogSettings,
    schema: pa.Schema,
    usual: tuple[datetime, datetime] | None,
) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Each batch of rows, and the share of the file's rows that end with it."""
    row = 0
    names = [logs.user_id, logs.item_id, logs.timestamp, *logs.optional.values()]
    # How many a text has, only reading tells.
    total = read_footer(file).num_rows if file.format == "Parquet" else None
    for batch in read_batches(file, names, _BATCH_ROWS):
        rows = len(batch)
        zone = logs.time_zone or "UTC"
        times = normalise_timestamps(batch[logs.timestamp], logs.timestamp_unit, zone)
        nothing = pa.nulls(rows)
        columns = [
            plain_ids(batch[logs.user_id], schema.field(USER_ID).type, file.path),
            plain_ids(batch[logs.item_id], schema.field(ITEM_ID).type, file.path),
            times,
            pa.repeat(pa.scalar(position, pa.int32()), rows),
            pa.arange(row, row + rows),
            raw_timestamps(batch[logs.timestamp], times, usual),
            plain_event_types(batch[logs.event_type] if logs.event_type else nothing),
            *plain_values(batch[logs.value] if logs.value else nothing),
        ]
        row += rows
        yield pa.record_batch(columns, schema=schema), row / total if total else 0.0
