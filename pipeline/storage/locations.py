"""Every path of a run: its tables and bundles in the warehouse, its folders in the work folder."""

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from pipeline.errors import ConfigError
from pipeline.storage.credentials import check_no_credentials
from pipeline.storage.folders import Folder, LocalFolder, is_uri, open_folder
from pipeline.storage.locks import exclusive_lock
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

# delta-rs 1.6 writes a table at such a path, but decodes %XX once more and takes a backslash for a
# slash when it reads the log; at the others it panics. No other form of the path helps: URIs, links
# and /proc/self/fd are all resolved to the same path first.
_NOT_IN_DELTA = re.compile(r"%[0-9A-Fa-f]{2}|[\\\[\]^|\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Warehouse:
    """Where the tables and the published bundles are.

    Attributes:
        root: Local path, or URI of a folder in an object store.

    Raises:
        ConfigError: the URI holds a key, or the path is one that delta-rs would write to but not
            read again.
    """

    root: str

    def __post_init__(self) -> None:
        check_no_credentials(self.root)
        if not self._is_local:
            return
        if unusable := _NOT_IN_DELTA.search(self.place):
            raise ConfigError(
                "a path that Delta tables cannot have",
                self.root,
                expected=r"neither %, followed by two hexadecimal digits, nor any of \ [ ] ^ |",
                found=unusable[0],
                remedy="Set `warehouse` to another folder; all other paths may have these.",
            )

    @property
    def place(self) -> str:
        """The absolute path or the URI, the same for every spelling of `root`."""
        return open_folder(self.root).root if self._is_local else self.root.rstrip("/")

    @property
    def _is_local(self) -> bool:
        return not is_uri(self.root) or urlsplit(self.root).scheme == "file"

    def table(self, name: str) -> str:
        """The path or URI of a Delta table, such as ``interactions``."""
        if is_uri(self.root):
            return f"{self.root.rstrip('/')}/{name}"
        return str(Path(self.root) / name)

    def models(self, bundle: str = "") -> Folder:
        """The folder ``models/``, with `champion.json`; or that of a bundle in it."""
        return open_folder(self.table(f"models/{bundle}".rstrip("/")))

    def reports(self, run_date: date | None = None) -> Folder:
        """The folder ``reports/``, with the index; or that of a run date in it."""
        return open_folder(self.table(f"reports/{run_date or ''}".rstrip("/")))


@dataclass(frozen=True)
class RunLocations:
    """Where one run reads and writes.

    Attributes:
        warehouse: Tables and bundles, of all run dates.
        work_dir: Local scratch, of all run dates.
        run_date: The day whose run it is.
        resources: What sorts and joins may use.
    """

    warehouse: Warehouse
    work_dir: Path
    run_date: date
    resources: ResourceSettings = DEFAULT_RESOURCES

    @classmethod
    def of(cls, settings: "Settings", run_date: date) -> Self:
        """Where the run of a date reads and writes by its settings."""
        warehouse = Warehouse(settings.warehouse)
        return cls(warehouse, settings.work_dir, run_date, settings.resources)

    @property
    def folder(self) -> Path:
        """Everything local of this run date."""
        return self.work_dir / f"run_date={self.run_date}"

    @property
    def lock(self) -> Path:
        """The file whose lock a run holds."""
        return self.folder / ".lock"

    def held(self) -> AbstractContextManager[None]:
        """Hold the run date in the ``with`` block.

        Raises:
            BusyError: another process holds it.
        """
        return exclusive_lock(self.lock, "another run works on this run date", self.folder)

    @property
    def scratch(self) -> Path:
        """Temporary files of sorts and joins."""
        if self.resources.scratch_dir is None:
            return self.folder / ".scratch"
        # Several work folders may share it.
        work = sha256(str(self.work_dir.absolute()).encode()).hexdigest()[:16]
        return self.resources.scratch_dir / f"fearec-{work}-{self.run_date}"

    @property
    def prepared(self) -> Path:
        """The prepared sequences and the vocabulary."""
        return self.folder / "prepared"

    @property
    def training(self) -> Path:
        """Checkpoints and weights, in a folder per training key."""
        return self.folder / "train"

    @property
    def parts(self) -> Path:
        """The scored parts, before they are published."""
        return self.folder / "parts"

    @property
    def tensorrt(self) -> Path:
        """TensorRT's engines, of all models."""
        return self.work_dir / "tensorrt"

    @property
    def local_models(self) -> Path:
        """Where bundles are on this machine; those of an object store are copied to `work_dir`."""
        folder = self.warehouse.models()
        return Path(folder.where) if isinstance(folder, LocalFolder) else self.work_dir / "models"

    def record(self, stage: str) -> Path:
        """The JSON file that records a stage as done."""
        return self.folder / f"{stage}.json"


def run_dates_in(work_dir: Path) -> list[date]:
    """The run dates that have a folder in a work folder, newest first."""
    found = []
    for folder in work_dir.glob("run_date=*"):
        with suppress(ValueError):  # not one of ours
            day = date.fromisoformat(folder.name.removeprefix("run_date="))
            found += [day] if folder.name == f"run_date={day}" else []
    return sorted(found, reverse=True)
