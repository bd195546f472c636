"""Stage: the scored parts into the Delta table `recommendations`, one partition a run date.

The partition is replaced in one commit, so readers see yesterday's rows or today's, never a
mixture. The commit says which scoring run the rows are of (its time, as the version of a Delta
transaction), so that publishing the same run again changes nothing, not even the table's version.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, PublishError, ResumeError, one_line
from pipeline.schema import RUN_DATE
from pipeline.scoring.manifest import MANIFEST, Manifest, read_manifest
from pipeline.scoring.run import ScoreResult
from pipeline.storage.folders import Folder, open_folder
from pipeline.warehouse.tables import all_rows, dataset_of, open_table, replace, table_id, table_uri

if TYPE_CHECKING:
    from deltalake import DeltaTable

RECOMMENDATIONS = "recommendations"

_SCORE_AGAIN = "Run `fearec score --force` for this date, then publish again."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Published:
    """Where the recommendations are.

    Attributes:
        table: Path or URI of the `recommendations` table.
        table_id: Which table it is; one made anew there has another.
        version: The table's version afterwards.
        n_rows: Rows of the run date.
        n_users: Users they are for.
    """

    table: str
    table_id: str
    version: int
    n_rows: int
    n_users: int


def publish(settings: Settings, run_date: date, scored: ScoreResult) -> Published:
    """Replace the run date's partition by the scored parts, all or nothing.

    Raises:
        PublishError: the parts are empty, incomplete or of another layout than the table, or
            the table could not be written; it is then as it was.
    """
    folder = open_folder(scored.folder)
    manifest = _read_manifest(folder)
    parts = _open_parts(folder, manifest)
    counts = [part.n_users for part in manifest.parts.values()]
    transaction = f"{RECOMMENDATIONS}/{RUN_DATE}={run_date}"
    scoring_run = (manifest.generated_at - _EPOCH) // timedelta(microseconds=1)
    n_rows = parts.count_rows()
    uri = table_uri(settings, RECOMMENDATIONS)

    with _told(uri):
        table = open_table(settings, RECOMMENDATIONS)
        if table is not None:
            _widen(table, _common_columns(table, parts.schema, uri))
        known = table.transaction_version(transaction) if table is not None else None
        if table is None or known != scoring_run or _rows_of(table, run_date) != n_rows:
            _replace(table or uri, parts, run_date, transaction, scoring_run)
            table = open_table(settings, RECOMMENDATIONS)
    assert table is not None
    return Published(uri, table_id(table), table.version(), n_rows, sum(counts))


def refuse_other_layout(settings: Settings) -> None:
    """Refuse a night whose recommendations would not fit the table, before it begins.

    Raises:
        ConfigError: the table has the other `score.layout`.
    """
    table = open_table(settings, RECOMMENDATIONS)
    if table is None:
        return
    columns = {column.name for column in table.schema().fields}
    there = "long" if "rank" in columns else "list"
    if settings.score.layout != there:
        raise ConfigError(
            "the table has the other layout",
            table_uri(settings, RECOMMENDATIONS),
            expected=f'score.layout = "{there}"',
            found=repr(settings.score.layout),
            remedy="Set score.layout back, or move the table away.",
        )


def _replace(
    table: "DeltaTable | str", parts: ds.Dataset, run_date: date, transaction: str, scoring_run: int
) -> None:
    from deltalake import CommitProperties, Transaction, write_deltalake

    # Streamed, few batches ahead: the parts together may be far larger than memory.
    rows = parts.scanner(batch_size=1 << 16, batch_readahead=2, fragment_readahead=1).to_reader()
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        partition_by=[RUN_DATE],
        predicate=f"{RUN_DATE} = '{run_date}'",
        commit_properties=CommitProperties(
            app_transactions=[Transaction(transaction, scoring_run)]
        ),
    )


def _read_manifest(folder: Folder) -> Manifest:
    try:
        manifest = read_manifest(folder)
    except ResumeError:
        raise PublishError(
            "no scored parts", folder.where, expected=f"a {MANIFEST}", remedy=_SCORE_AGAIN
        ) from None
    if not manifest.complete:
        raise PublishError(
            "the scoring run did not end",
            folder.name_of(MANIFEST),
            remedy="Run `fearec score` for this date: it goes on where it stopped.",
        )
    return manifest


def _open_parts(folder: Folder, manifest: Manifest) -> ds.Dataset:
    missing = sorted(manifest.parts.keys() - folder.names())
    if missing:
        raise PublishError("a part is missing", folder.name_of(missing[0]), remedy=_SCORE_AGAIN)
    paths = [folder.path(name) for name in manifest.parts]
    parts = ds.dataset(paths, format="parquet", filesystem=folder.filesystem)
    expected = sum(part.n_rows for part in manifest.parts.values())
    found = parts.count_rows()
    if found != expected:
        raise PublishError(
            "the parts are not as they were written",
            folder.where,
            expected=f"{expected} rows",
            found=str(found),
            remedy=_SCORE_AGAIN,
        )
    if not found:
        raise PublishError(
            "no recommendations",
            folder.where,
            found=f"{len(manifest.parts)} parts without rows",
            remedy="The table is as it was. Check score.allow, score.deny and the logs.",
        )
    return parts


def _common_columns(table: "DeltaTable", parts: pa.Schema, uri: str) -> pa.Schema:
    """The table's columns, with integers as wide as in the parts where those are wider."""
    there = dataset_of(table).schema
    for expected, found in zip(there, parts, strict=False):
        if expected.name == found.name and _kind(expected.type) == _kind(found.type):
            continue
        raise PublishError(
            "the table has other columns than the new recommendations",
            uri,
            expected=f"{expected.name}: {expected.type}",
            found=f"{found.name}: {found.type}",
            remedy="Set score.layout and the id columns back, or move the table away.",
        )
    return pa.unify_schemas([there, parts], promote_options="permissive")


def _kind(kind: pa.DataType) -> str:
    # Names inside lists and the width of integers and string offsets make no difference here.
    plain = str(kind).replace("large_", "").replace("list<item:", "list<element:")
    return re.sub(r"\bint\d+", "int", plain)


def _widen(table: "DeltaTable", columns: pa.Schema) -> None:
    # Ids that grew, as in `interactions`; narrower ones are widened as they are written.
    if _widths(dataset_of(table).schema) != _widths(columns):
        replace(table, all_rows(table).cast(columns))


def _widths(columns: pa.Schema) -> list[str]:
    return re.findall(r"\bint\d+", str(columns.types))


def _rows_of(table: "DeltaTable", run_date: date) -> int:
    rows = dataset_of(table).count_rows(filter=ds.field(RUN_DATE) == run_date)
    return int(rows)


@contextmanager
def _told(uri: str) -> Iterator[None]:
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError as error:
        raise PublishError(
            "another run wrote to the table meanwhile",
            uri,
            found=one_line(error),
            remedy="The table holds the other run's rows; publish again when it has ended.",
        ) from error
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise PublishError(
            "cannot be written",
            uri,
            found=one_line(error),
            remedy="The table is as it was; publish again when the cause is gone.",
        ) from error
