"""The output folder of a scoring run: Parquet parts, and the manifest that says which are done.

A part appears in the folder whole, and only then is it entered in the manifest, itself replaced
whole; so whatever moment a run is killed at, no half of a part is ever visible, and ``--resume``
goes on after the last part entered. What the manifest lists is ours to replace, and nothing else
is, so a part stays listed until it is gone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ConfigError
from pipeline.errors import PublishError, ResumeError, one_line
from pipeline.schema import ITEM_ID, SCORE
from pipeline.scoring.manifest import (
    MANIFEST,
    Manifest,
    PartCounts,
    ResumeKey,
    intact,
    read_manifest,
    refuse_changes,
)
from pipeline.storage.atomic_files import fsync, hidden
from pipeline.storage.folders import LOCK, SCRATCH, Folder, storage_errors

_UNFINISHED = {LOCK, SCRATCH, hidden(MANIFEST)}


class PartWriter:
    """The folder of one run: `begin`, `write` its parts in order, then `finish`.

    Args:
        folder: May not exist yet.
        manifest: With the parts that are done.
        before: The folder's own manifest; the parts that only it knows are replaced.
    """

    def __init__(self, folder: Folder, manifest: Manifest, before: Manifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._before = before
        self._started = False
        self._scratch = Path()

    @property
    def done(self) -> PartCounts:
        """What the finished parts hold together."""
        return sum(self.manifest.parts.values(), PartCounts())

    @contextmanager
    def begin(self) -> Iterator[Path]:
        """Make room for temporary files, in the local folder that this yields.

        A run that fails before its first part leaves everything as it was.

        Raises:
            BusyError: another process writes to the folder, on a disk; a store tells nobody.
            PublishError: there is no room.
        """
        with ExitStack() as stack:
            with self._told(SCRATCH):
                self._scratch = stack.enter_context(self.folder.scratch())
            yield self._scratch

    def write(self, table: pa.Table, counts: PartCounts) -> None:
        """Add one part.

        Raises:
            PublishError: it cannot be written, for want of space, permission or a network.
        """
        name = self.manifest.next_part
        file = self._scratch / "part.parquet"
        with self._told(name):
            pq.write_table(table, file, compression="zstd", use_dictionary=_repeating(table))
            fsync(file)
            self._start()
            self.folder.put(file, name)
        self._record(parts={**self.manifest.parts, name: counts})

    def finish(self, empty: pa.Table) -> None:
        """Declare the output complete; a run without users leaves one part without rows."""
        if not self.manifest.parts:
            self.write(empty, PartCounts())
        self._record(complete=True)

    def _start(self) -> None:
        """Put this run's manifest in the place of the one before, now that a part is there."""
        if self._started:
            return
        if self._before is not None:
            self._save(self._before.model_copy(update={"complete": False}))
            for name in sorted(self._before.files - set(self.manifest.parts)):
                self.folder.remove(name)
        self._save(self.manifest)
        self._started = True

    def _record(self, **changes: Any) -> None:
        manifest = self.manifest.model_copy(update=changes)
        self._save(manifest)
        self.manifest = manifest

    def _save(self, manifest: Manifest) -> None:
        with self._told(MANIFEST):
            self.folder.put_text(MANIFEST, manifest.model_dump_json(indent=1) + "\n")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublishError(
                f"cannot be written: {one_line(error)}",
                self.folder.told(name),
                remedy="Finished parts are kept: see to it and run again with --resume.",
            ) from None


def open_output(
    folder: Folder, binding: ResumeKey, generated_at: datetime, *, resume: bool, overwrite: bool
) -> PartWriter:
    """Look at the output folder; nothing is written or removed yet.

    Raises:
        ConfigError: the folder holds something and neither flag was given; or, with one, files
            that are not an earlier run's.
        ResumeError: with `resume`, there is no run of this bundle, input and settings.
        StorageError: it cannot be looked at.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other", folder.where)
    with storage_errors(folder.where):
        if folder.is_file():
            raise ConfigError("the output must be a folder", folder.where, found="a file")
        names = folder.names()
        fresh = Manifest(binding=binding, generated_at=generated_at, parts={}, complete=False)
        if not names:
            return PartWriter(folder, fresh)
        if not (resume or overwrite):
            raise ConfigError(
                "the output folder is not empty",
                folder.where,
                remedy="Give another folder, --resume to go on with a run that was cut short, or "
                "--overwrite to replace it.",
            )
        if names <= _UNFINISHED:  # killed while it began
            return PartWriter(folder, fresh)
        try:
            before = read_manifest(folder)
        except ResumeError:
            if resume:
                raise
            before = None
        if resume and before is not None:
            refuse_changes(folder.where, before.binding, binding)
        _refuse_foreign(folder, names, before)
        if resume and before is not None:
            return PartWriter(folder, intact(before, folder), before)
    return PartWriter(folder, fresh, before)


def _refuse_foreign(folder: Folder, names: set[str], before: Manifest | None) -> None:
    ours = {MANIFEST, *before.files} if before is not None else set()
    foreign = sorted(names - ours - _UNFINISHED)
    if foreign:
        raise ConfigError(
            "the output folder holds files that fearec-score did not write",
            folder.where,
            expected=f"only what its {MANIFEST} lists",
            found=", ".join(foreign[:3]),
            remedy="Give another folder, or move them away.",
        )


def _repeating(table: pa.Table) -> list[str]:
    """Parquet's names of the columns worth a dictionary; scores hardly ever repeat."""
    names = [name for name in table.schema.names if name != SCORE]
    return [*names, f"recommendations.list.element.{ITEM_ID}"]
