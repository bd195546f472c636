"""The results of the housekeeping."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class CleanedTable:
    """What became of a table.

    Attributes:
        name: The table's name.
        files: Data files removed that no version within `retention.table_days` needs.
        bytes: Their size, where they lie on a local disk; 0 in an object store.
        compacted: Small files merged into larger ones.
    """

    name: str
    files: int
    bytes: int
    compacted: int


@dataclass(frozen=True)
class Cleaned:
    """What was removed, or would be.

    Attributes:
        dry_run: Whether nothing was removed.
        work: Run dates whose local folders are gone.
        models: Model versions that are gone.
        partitions: Run dates whose recommendations are gone.
        reports: Run dates whose pages are gone.
        tables: The tables that changed.
        bytes: Freed by work folders, checkpoints, models and files of tables.
    """

    dry_run: bool
    work: tuple[date, ...]
    models: tuple[str, ...]
    partitions: tuple[date, ...]
    reports: tuple[date, ...]
    tables: tuple[CleanedTable, ...]
    bytes: int
