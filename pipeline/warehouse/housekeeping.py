"""The upkeep of the tables: old partitions, small files, and files that no version needs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.dataset as ds

from pipeline.errors import naming, one_line
from pipeline.results import CleanedTable
from pipeline.schema import (
    INTERACTIONS,
    ITEM_EMBEDDINGS,
    LOG_FILES,
    QUARANTINE,
    RECOMMENDATIONS,
    RELATED_ITEMS,
    RUN_DATE,
    RUNS,
    USER_EMBEDDINGS,
    VOCABULARY,
)
from pipeline.storage.folders import is_uri
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.lists import published_dates
from pipeline.warehouse.tables import dataset_of, delete, open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Of those with a partition per run date, the first decides which run dates are kept.
_PARTITIONED = (RECOMMENDATIONS, RELATED_ITEMS, ITEM_EMBEDDINGS, USER_EMBEDDINGS)
TABLES = (INTERACTIONS, QUARANTINE, LOG_FILES, VOCABULARY, *_PARTITIONED, RUNS)
_SMALL = 16 * 2**20  # bytes of a file that is worth merging
_MANY = 16  # such files
# Names in Delta's protocol: for how long the log, and the files that it has taken out, are kept.
_KEPT = ("delta.logRetentionDuration", "delta.deletedFileRetentionDuration")

logger = logging.getLogger(__name__)


def published_models(warehouse: Warehouse) -> dict[date, str]:
    """The model version of every published run date, newest first: a partition has only one."""
    table = open_table(warehouse.table(RECOMMENDATIONS))
    if table is None:
        return {}
    rows = dataset_of(table)
    days = sorted(set(published_dates(table)), reverse=True)
    column = "model_version"
    with naming(warehouse.table(RECOMMENDATIONS)):
        return {
            day: rows.head(1, columns=[column], filter=ds.field(RUN_DATE) == day)[column][0].as_py()
            for day in days
        }


def drop_partitions(warehouse: Warehouse, before: date) -> None:
    """Remove the recommendations, related items and embeddings of all run dates before one.

    Raises:
        ConflictError: another run wrote to a table meanwhile; nothing was removed from it.
    """
    for name in reversed(_PARTITIONED):
        table = open_table(warehouse.table(name))
        if table is not None and min(published_dates(table), default=before) < before:
            delete(table, f"{RUN_DATE} < '{before}'")


def clean_table(
    warehouse: Warehouse, name: str, kept: timedelta, *, dry_run: bool
) -> CleanedTable | None:
    """Merge a table's small files, and remove those that no version of the last days needs.

    Args:
        warehouse: Where the table is.
        name: The table.
        kept: For how long the table can be read as it was.
        dry_run: Whether nothing is changed.

    Returns:
        What changed, or would; None where nothing does.
    """
    uri = warehouse.table(name)
    table = open_table(uri)
    if table is None:
        return None
    with naming(uri):
        return _clean(name, uri, table, int(kept / timedelta(hours=1)), dry_run=dry_run)


def _clean(
    name: str, uri: str, table: "DeltaTable", hours: int, *, dry_run: bool
) -> CleanedTable | None:
    compacted = 0
    if not dry_run:
        with _left_for_later(uri):
            duration = f"interval {hours} hours"
            if any(table.metadata().configuration.get(key) != duration for key in _KEPT):
                table.alter.set_table_properties(dict.fromkeys(_KEPT, duration))
            if _is_fragmented(uri):
                compacted = table.optimize.compact()["numFilesRemoved"]
    # Of everything in the folder: writers that were killed leave files that no version names.
    unneeded = table.vacuum(hours, enforce_retention_duration=False, full=True)
    size = 0 if is_uri(uri) else sum(_size(Path(uri) / file) for file in unneeded)
    if not dry_run:
        with _left_for_later(uri):
            if unneeded:
                table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)
            _remove_empty_partitions(uri)
            table.create_checkpoint()
            table.cleanup_metadata()
    changed = unneeded or compacted
    return CleanedTable(name, len(unneeded), size, compacted) if changed else None


def _remove_empty_partitions(uri: str) -> None:
    """Remove the folders of partitions that are gone, which every vacuum would list."""
    for folder in () if is_uri(uri) else Path(uri).glob("*=*"):
        with suppress(OSError):  # there are files in it
            folder.rmdir()


def _is_fragmented(uri: str) -> bool:
    table = open_table(uri)
    if table is None or table.metadata().partition_columns:  # a partition is written at once
        return False
    sizes = table.get_add_actions().column("size_bytes").to_pylist()
    return sum(size < _SMALL for size in sizes) >= _MANY


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another run's upkeep has removed it meanwhile
        return 0


@contextmanager
def _left_for_later(uri: str) -> Iterator[None]:
    """Leave to the next upkeep what collides with another run's commit."""
    from deltalake.exceptions import CommitFailedError

    try:
        yield
    except CommitFailedError as error:
        logger.warning("%s: left for the next upkeep: %s", uri, one_line(error))
