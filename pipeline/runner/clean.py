"""The housekeeping: what `[retention]` does not keep is removed."""

import logging
import shutil
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

from pipeline.bundles.unused import remove_models, unused_models
from pipeline.config.retention_section import RunDates
from pipeline.config.settings import Settings
from pipeline.errors import BusyError, FearecError
from pipeline.reporting.report import remove_reports, report_dates, write_index
from pipeline.results import Cleaned, Trained
from pipeline.runner.cache import StageRecord
from pipeline.runner.failures import storage_failures
from pipeline.storage.atomic_files import files_below
from pipeline.storage.folders import StoreFolder
from pipeline.storage.leftovers import is_untouched
from pipeline.storage.locations import RunLocations, Warehouse, run_dates_in
from pipeline.warehouse.housekeeping import (
    TABLES,
    clean_table,
    drop_partitions,
    published_models,
)

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


def clean(settings: Settings, *, dry_run: bool = False) -> Cleaned:
    """Remove old work folders, models, recommendations and reports, and files that no table needs.

    Runs that are at work are left alone, and so is whatever is younger than a day in `models/`.

    Args:
        settings: With the limits, in `[retention]`.
        dry_run: Only find out what would be removed.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away, or a disk is read-only.
    """
    with storage_failures(settings):
        cleaned = _clean(settings, dry_run=dry_run)
        if cleaned.reports and not dry_run:
            write_index(Warehouse(settings.warehouse))
    return cleaned


def _clean(settings: Settings, *, dry_run: bool = False) -> Cleaned:
    """`clean`, but for the links of the index to pages that are gone."""
    warehouse, retention = Warehouse(settings.warehouse), settings.retention
    published = published_models(warehouse)
    partitions = _beyond(list(published), retention.recommendations)
    if partitions and not dry_run:
        drop_partitions(warehouse, min(published.keys() - set(partitions)))
    kept = {version for day, version in published.items() if day not in partitions}
    models = () if retention.models == "all" else unused_models(warehouse, retention.models, kept)
    names = tuple(each.model_version for each in models)
    if names and retention.models != "all" and not dry_run:
        names = remove_models(warehouse, retention.models, names)
    work, freed = _clean_work(settings, names, dry_run=dry_run)
    reports = _beyond(sorted(report_dates(warehouse), reverse=True), retention.recommendations)
    if reports and not dry_run:
        remove_reports(warehouse, reports)
    keep = timedelta(days=retention.table_days)
    tables = [clean_table(warehouse, name, keep, dry_run=dry_run) for name in TABLES]
    changed = tuple(table for table in tables if table)
    return Cleaned(
        dry_run,
        work,
        names,
        tuple(partitions),
        tuple(reports),
        changed,
        freed
        + sum(each.size for each in models if each.model_version in names)
        + sum(table.bytes for table in changed),
    )


def clean_after_run(
    settings: Settings, locations: RunLocations, trained: StageRecord[Trained] | None
) -> None:
    """Remove a finished run's checkpoints, its trainings with other settings, and do `clean`.

    What fails is a warning: the run is published. The index of the reports, which every run writes
    once, is left to be written after it.

    Args:
        settings: Of the run.
        locations: Of the run.
        trained: The training that counts; its weights and metrics stay.
    """
    if not settings.retention.after_runs:
        return
    try:
        with storage_failures(settings):
            for folder in locations.training.glob("*"):
                if trained is None or folder.name != trained.result.folder.name:
                    shutil.rmtree(folder)
                    continue
                for checkpoint in folder.glob("*/*.ckpt"):
                    checkpoint.unlink()
            _clean(settings)
    except FearecError as error:
        logger.warning("the housekeeping failed: %s", error)


def disk_use(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    total = 0
    for file in files_below(path) if path.is_dir() else [path]:
        with suppress(OSError):
            total += file.lstat().st_size if file.is_file() else 0
    return total


def _beyond(newest_first: list[Item], kept: RunDates) -> list[Item]:
    return [] if kept == "all" else newest_first[kept:]


def _remove_locked(folder: Path, lock: Path) -> None:
    """Remove a folder; the lock in it goes last, so that nobody else takes it before."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != lock:
            path.unlink()
    lock.unlink()
    with suppress(OSError):  # a run of the date begins at this moment
        folder.rmdir()


def _clean_work(
    settings: Settings, models: tuple[str, ...], *, dry_run: bool
) -> tuple[tuple[date, ...], int]:
    """Remove old run dates' folders, and local copies of models that are gone."""
    freed, removed = 0, []
    for day in _beyond(run_dates_in(settings.work_dir), settings.retention.work):
        locations = RunLocations.of(settings, day)
        with suppress(BusyError), locations.held():
            freed += disk_use(locations.folder)
            removed.append(day)
            if not dry_run:
                _remove_locked(locations.folder, locations.lock)
    store = Warehouse(settings.warehouse).models()
    if isinstance(store, StoreFolder):
        kept = store.names() - set(models)
        for copy in (settings.work_dir / "models").glob("[!.]*"):
            # One that is not in the store is of a model that another machine removed, or of one
            # that is on its way there.
            with suppress(FileNotFoundError):  # another cleaning was faster
                if copy.name in models or (copy.name not in kept and is_untouched(copy, "folder")):
                    freed += disk_use(copy)
                    if not dry_run:
                        shutil.rmtree(copy, ignore_errors=True)
    return tuple(removed), freed
