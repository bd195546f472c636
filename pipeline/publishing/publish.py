"""Stage: the scored parts into the Delta table `recommendations`, one partition per run date.

The partition is replaced in one commit, so readers see yesterday's rows or today's, never a
mixture. The commit says which scoring run the rows are of (its time, as the version of a Delta
transaction), so that publishing the same run again changes nothing, not even the table's version.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, PublishError, naming
from pipeline.publishing.parts import ScoredParts, open_parts
from pipeline.results import Published, Scored
from pipeline.schema import RECOMMENDATIONS, RUN_DATE
from pipeline.storage.leftovers import remove_unfinished_uploads
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.partitions import commit_errors, fit_columns
from pipeline.warehouse.tables import (
    count_rows,
    open_table,
    replace_run_date,
    table_id,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def publish(scored: Scored, locations: RunLocations) -> Published:
    """Replace the run date's partition with the scored parts, all or nothing.

    Args:
        scored: The scored parts.
        locations: The table, and the run date.

    Raises:
        PublishError: the parts are empty, incomplete or of another layout than the table, or
            the table could not be written; it is then as it was. Or another run of the same run
            date, on another machine, was the later one; the table holds its rows.
    """
    parts = open_parts(scored.folder)
    n_users = sum(part.n_users for part in parts.manifest.parts.values())
    run_date = locations.run_date
    transaction = f"{RECOMMENDATIONS}/{RUN_DATE}={run_date}"
    scoring_run = (parts.manifest.generated_at - _EPOCH) // timedelta(microseconds=1)
    n_rows = parts.dataset.count_rows()
    uri = locations.warehouse.table(RECOMMENDATIONS)

    with commit_errors(uri):
        remove_unfinished_uploads(locations.warehouse)
        table = open_table(uri)
        if table is not None:
            remedy = "Set score.layout and the id columns back, or move the table away."
            fit_columns(table, parts.dataset.schema, uri, remedy)
        known = table.transaction_version(transaction) if table is not None else None
        if table is None or known != scoring_run or _rows_of(table, run_date) != n_rows:
            with _checked_rows(parts) as rows:
                replace_run_date(
                    table or uri,
                    rows,
                    run_date,
                    (transaction, scoring_run),
                    partition_by=[RUN_DATE],
                )
            table = open_table(uri)
    assert table is not None
    with naming(uri):
        published = table.transaction_version(transaction)
    if published != scoring_run:
        raise PublishError(
            "lost the race: another run of this run date has published meanwhile",
            uri,
            remedy="The table holds the other run's rows, and its model becomes the champion.",
        )
    return Published(uri, table_id(table), table.version(), n_rows, n_users)


def check_layout(layout: str, locations: RunLocations) -> None:
    """Check that a run's recommendations would fit the table, before the run begins.

    Raises:
        ConfigError: the table has the other `score.layout`.
    """
    uri = locations.warehouse.table(RECOMMENDATIONS)
    table = open_table(uri)
    if table is None:
        return
    columns = {column.name for column in table.schema().fields}
    there = "long" if "rank" in columns else "list"
    if layout != there:
        raise ConfigError(
            "the table has the other layout",
            uri,
            expected=f'score.layout = "{there}"',
            found=repr(layout),
            remedy="Set score.layout back, or move the table away.",
        )


@contextmanager
def _checked_rows(parts: ScoredParts) -> Iterator[pa.RecordBatchReader]:
    """The rows of all parts as a stream, part by part.

    The parts together may be far larger than memory.

    Raises:
        PublishError: a part is not as it was written. It replaces the error that delta-rs, which
            reads the stream, raises then.
    """
    failures: list[PublishError] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for name in parts.manifest.parts:
            try:
                content = parts.read(name)
            except PublishError as error:
                failures.append(error)
                raise
            with pq.ParquetFile(content) as file:
                yield from file.iter_batches(1 << 16)

    try:
        yield pa.RecordBatchReader.from_batches(parts.dataset.schema, batches())
    except Exception:
        if failures:
            raise failures[0] from None
        raise


def _rows_of(table: "DeltaTable", run_date: date) -> int:
    return count_rows(table, ds.field(RUN_DATE) == run_date)
