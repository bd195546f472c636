"""Stage: the scored parts into the Delta table `recommendations`, one partition per run date.

The parts are copied into the table's folder as they are. One commit puts them in the place of the
partition's files, so readers see yesterday's rows or today's, never a mixture. The commit says
which scoring run the rows are of (its time, as the version of a Delta transaction), so that
publishing the same run again changes nothing, not even the table's version.
"""

from collections.abc import Iterator
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, PublishError, ResumeError, naming
from pipeline.publishing.parts import ScoredParts, open_parts
from pipeline.results import Published, Scored
from pipeline.schema import RECOMMENDATIONS, RUN_DATE
from pipeline.scoring.encoded_part import parquet_file
from pipeline.scoring.manifest import read_manifest
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.folders import open_folder
from pipeline.storage.leftovers import remove_unfinished_uploads
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.commits import conflicts
from pipeline.warehouse.partition_files import put_files, replace_files
from pipeline.warehouse.partitions import commit_errors, fit_columns, transaction_of, widths
from pipeline.warehouse.tables import count_rows, open_table, table_id

if TYPE_CHECKING:
    from deltalake import DeltaTable


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
    name, scoring_run = transaction_of(RECOMMENDATIONS, run_date, parts.manifest.generated_at)
    n_rows = parts.dataset.count_rows()
    uri = locations.warehouse.table(RECOMMENDATIONS)

    with commit_errors(uri):
        remove_unfinished_uploads(locations.warehouse)
        table = open_table(uri)
        before = _published_run(table, name)
        if table is None or before != scoring_run or _rows_of(table, run_date) != n_rows:
            commit = partial(_replace, uri, parts, run_date, (name, scoring_run), before)
            until_committed(commit)
            table = open_table(uri)
    assert table is not None
    with naming(uri):
        _check_race(uri, _published_run(table, name), scoring_run)
    return Published(uri, table_id(table), table.version(), n_rows, n_users)


def is_published(published: Published, scored: Scored, locations: RunLocations) -> bool:
    """Whether the table still has the rows of the scored parts as those of the run date.

    Args:
        published: What publishing them came to.
        scored: The scored parts.
        locations: The table, and the run date.
    """
    table = open_table(locations.warehouse.table(RECOMMENDATIONS))
    if table is None or table_id(table) != published.table_id:
        return False
    try:
        manifest = read_manifest(open_folder(scored.folder))
    except (ResumeError, OSError):
        return False
    run_date = locations.run_date
    name, scoring_run = transaction_of(RECOMMENDATIONS, run_date, manifest.generated_at)
    is_of_run = _published_run(table, name) == scoring_run
    return is_of_run and _rows_of(table, run_date) == published.n_rows


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


def _replace(
    uri: str, parts: ScoredParts, run_date: date, transaction: tuple[str, int], before: int | None
) -> None:
    """Commit the parts; `before` is the scoring run that the table has of the run date.

    Raises:
        ConflictError: another run wrote to the table meanwhile.
        PublishError: it was one of this run date; or the table has other columns.
    """
    table, columns = open_table(uri), parts.dataset.schema
    _check_race(uri, _published_run(table, transaction[0]), before)
    if table is not None:
        remedy = "Set score.layout and the id columns back, or move the table away."
        columns = fit_columns(table, columns, uri, remedy)
    files = put_files(uri, _contents(parts, columns), run_date)
    with conflicts(uri):
        replace_files(table or uri, files, columns, run_date, transaction)


def _contents(parts: ScoredParts, columns: pa.Schema) -> Iterator[pa.Buffer]:
    """The files' contents, written anew only where a table's ids are wider than theirs."""
    own = parts.dataset.schema
    wanted = pa.schema([columns.field(name) for name in own.names])
    is_narrow = not widths(wanted).items() <= widths(own).items()
    for name in parts.manifest.parts:
        content = parts.read(name)
        if is_narrow:
            content = parquet_file(pq.read_table(pa.BufferReader(content)).cast(wanted))
        yield content


def _published_run(table: "DeltaTable | None", transaction: str) -> int | None:
    """The scoring run whose rows a table has of a run date."""
    return None if table is None else table.transaction_version(transaction)


def _check_race(uri: str, found: int | None, expected: int | None) -> None:
    if found != expected:
        raise PublishError(
            "lost the race: another run of this run date has published meanwhile",
            uri,
            remedy="The table holds the other run's rows, and its model becomes the champion.",
        )


def _rows_of(table: "DeltaTable", run_date: date) -> int:
    return count_rows(table, ds.field(RUN_DATE) == run_date)
