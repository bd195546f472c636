"""The state of a warehouse: champion, last runs, disk use."""

from datetime import date
from typing import Any

import pyarrow.fs as pafs

from pipeline.bundles.registry import read_registry
from pipeline.bundles.versions import describe_version
from pipeline.config.settings import Settings
from pipeline.errors import BundleError, InputError
from pipeline.results import RunSummary, Status, headline_of
from pipeline.runner.clean import disk_use
from pipeline.runner.failures import storage_failures
from pipeline.runner.run_log import FAILED
from pipeline.schema import RUN_DATE
from pipeline.storage.folders import open_folder
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.housekeeping import TABLES
from pipeline.warehouse.runs import reasons_of, runs_before


def status(settings: Settings, count: int) -> Status:
    """Read the champion, the last run dates and the disk use; changes nothing.

    Args:
        settings: Whose warehouse.
        count: Run dates, at most.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    warehouse = Warehouse(settings.warehouse)
    with storage_failures(settings):
        registry = read_registry(warehouse)
        rows = runs_before(warehouse, date.max, count)
        disk = disk_uses(settings)
    candidate = registry.candidate if registry else None
    return Status(
        registry.model_version if registry else None,
        _fault_of(warehouse, registry.path) if registry else None,
        candidate.model_version if candidate else None,
        tuple(_summary(row) for row in reversed(rows)),
        disk,
    )


def _fault_of(warehouse: Warehouse, model: str) -> str | None:
    try:
        describe_version(warehouse, model)
    except (InputError, BundleError) as error:
        return str(error)
    return None


def disk_uses(settings: Settings) -> dict[str, int]:
    """The bytes of each table, of `models` and `reports`, and of the work folder."""
    warehouse = Warehouse(settings.warehouse)
    disk = {name: _bytes(warehouse.table(name)) for name in (*TABLES, "models", "reports")}
    return disk | {"work_dir": disk_use(settings.work_dir)}


def _summary(row: dict[str, Any]) -> RunSummary:
    metrics = dict(row["metrics"] or ())
    metric = headline_of(metrics)
    return RunSummary(
        row[RUN_DATE],
        row["finished_at"],
        row["decision"],
        None if row["decision"] == FAILED else row["model_version"],
        metric,
        metrics[metric] if metric else None,
        tuple(reasons_of(row)),
        row["seconds"],
    )


def _bytes(where: str) -> int:
    folder = open_folder(where)
    below = pafs.FileSelector(folder.root, allow_not_found=True, recursive=True)
    return sum(info.size or 0 for info in folder.filesystem.get_file_info(below))
