"""Files that killed runs leave, and that a later run removes."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.errors import BusyError
from pipeline.storage.atomic_files import files_below, unfinished_below
from pipeline.storage.folders import is_uri
from pipeline.storage.locations import RunLocations, Warehouse, run_dates_in

# In the work folder, under no run date's lock: of version 0.1.0, and of bundles on their way here.
_UNLOCKED = ("ingest-*", "prepare-*", "models/.download-*")
_UNTOUCHED = {"folder": 86_400.0, "file": 60.0}  # seconds after which nothing writes to it any more


@contextmanager
def scratch_folder(locations: RunLocations) -> Iterator[Path]:
    """An empty local folder for temporary files, removed afterwards. The run date is locked.

    What killed runs of this and of other run dates left is removed first; a run date whose lock
    another process holds is passed over.
    """
    folder = locations.scratch
    _remove_leftovers_of_other_dates(locations)
    _remove_leftovers(locations)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished_uploads(warehouse: Warehouse) -> None:
    """Remove the files that killed writers of a local warehouse left.

    These are of Delta tables (`part-….parquet#1`) and of the list of models. A file that was
    written to a moment ago may be another run's and stays.
    """
    if is_uri(warehouse.root):
        return  # there, an upload becomes visible when it ends
    root = Path(warehouse.root)
    uploads = (
        file for file in files_below(root) if file.suffix.startswith((".parquet#", ".json#"))
    )
    for file in (*uploads, *unfinished_below(root / "models")):
        with suppress(OSError):
            if is_untouched(file, "file"):
                file.unlink()


def _remove_leftovers_of_other_dates(locations: RunLocations) -> None:
    for day in run_dates_in(locations.work_dir):
        other = replace(locations, run_date=day)
        with suppress(BusyError, OSError):
            if day != locations.run_date and any(_leftovers(other)):
                with other.held():
                    _remove_leftovers(other)
    for pattern in _UNLOCKED:
        for old in locations.work_dir.glob(pattern):
            with suppress(OSError):
                if old.is_dir() and is_untouched(old, "folder"):
                    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(locations: RunLocations) -> None:
    """Remove what killed runs left of a run date, which is locked."""
    for path in list(_leftovers(locations)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _leftovers(locations: RunLocations) -> Iterator[Path]:
    if locations.scratch.exists():
        yield locations.scratch
    yield from unfinished_below(locations.folder)


def is_untouched(path: Path, kind: Literal["folder", "file"]) -> bool:
    """Whether nothing writes to a path any more: to a file for a minute, to a folder for a day."""
    return time.time() - path.lstat().st_mtime > _UNTOUCHED[kind]
