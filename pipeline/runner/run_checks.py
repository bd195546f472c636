"""What is checked before a run or one of its stages begins."""

from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from pipeline.bundles.registry import CHAMPION, read_registry
from pipeline.config.settings import Settings
from pipeline.errors import BundleError, ConfigError
from pipeline.logs.log_files import would_list
from pipeline.storage.folders import open_filesystem, resolved
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.lists import has_other_lists


def check_settings_of_run(settings: Settings, run_date: date) -> None:
    """Check the run date, and that the work folder lies outside of the logs.

    Raises:
        ConfigError: the work folder lies in the logs, or the run date is later than tomorrow: as
            the newest it would be what serves until then.
    """
    check_outside_of(settings.logs.path, settings.work_dir, "work_dir")
    check_run_date(settings, run_date, "--date")


def check_run_date(settings: Settings, run_date: date, option: str) -> None:
    """Check that a run date is tomorrow at the latest.

    Args:
        settings: Whose calendar.
        run_date: The run date.
        option: What names it, for the error.

    Raises:
        ConfigError: it is later.
    """
    tomorrow = settings.today() + timedelta(days=1)
    if run_date > tomorrow:
        raise ConfigError(
            "the run date is in the future",
            option,
            expected=f"{tomorrow} at the latest",
            found=str(run_date),
        )


def check_outside_of(read: str, output: str | Path, setting: str) -> None:
    """Check that a Parquet file to write, or the folder of some, is none of the files of a path.

    Where `list_log_files` will refuse the path itself, nothing is said of it.

    Args:
        read: A file, a folder or a glob, such as `logs.path`.
        output: The file or folder to write, or its URI.
        setting: What names it, for the error.

    Raises:
        ConfigError: it would be read as one of them.
    """
    with suppress(OSError, pa.ArrowException):
        filesystem, inner = open_filesystem(str(output))
        path = resolved(filesystem, inner)
        if read and any(
            would_list(read, filesystem, each) for each in (path, f"{path}/items.parquet")
        ):
            raise ConfigError(
                f"it lies in {read}, which would then include it",
                setting,
                found=str(output),
                remedy="Choose another place.",
            )


def check_registry(locations: RunLocations) -> None:
    """Check that a model is known as the champion where one has served another run date.

    The run's own date does not count: the first run of all may have been killed after it had
    published its recommendations and before it registered their model.

    Raises:
        BundleError: there is no such model, or `champion.json` cannot be read.
    """
    warehouse = locations.warehouse
    if read_registry(warehouse) is None and has_other_lists(warehouse, locations.run_date):
        raise BundleError(
            "the list of published models is gone, but not what they recommended",
            warehouse.models().name_of(CHAMPION),
            remedy="Restore it, or name the model that serves: `fearec models promote VERSION`.",
        )
