"""The output folder of a scoring run: Parquet parts, and the manifest that lists finished ones.

A part appears in the folder whole, and is listed in the manifest after that; the manifest is
replaced atomically. So a killed run never leaves a visible partial file, and ``--resume`` continues
after the last listed part. Only files that the manifest lists may be replaced or removed; therefore
a part stays listed until it is removed.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError, PublishError, ResumeError, raised_as
from pipeline.scoring.encoded_part import EncodedPart
from pipeline.scoring.manifest import (
    MANIFEST,
    Manifest,
    PartCounts,
    ResumeKey,
    check_resume_key,
    intact,
    read_manifest,
)
from pipeline.storage.atomic_files import is_unfinished
from pipeline.storage.folders import LOCK, SCRATCH, Folder, storage_errors


class PartWriter:
    """Writes the output of one run: `begin`, `write` the parts in order, then `finish`.

    Args:
        folder: The output folder, which need not exist yet.
        manifest: The manifest, which lists the parts that are kept.
        before: The manifest that is in the folder; its parts that are not kept are removed.
    """

    def __init__(self, folder: Folder, manifest: Manifest, before: Manifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._before = before
        self._started = False
        self._scratch = Path()

    @property
    def done(self) -> PartCounts:
        """The counts of all finished parts together."""
        return sum(self.manifest.parts.values(), PartCounts())

    @contextmanager
    def begin(self) -> Iterator[Path]:
        """Lock the folder and yield a local folder for temporary files.

        A run that fails before its first part leaves everything as it was.

        Raises:
            BusyError: another process writes to the folder. An object store has no such lock.
            PublishError: there is no space.
        """
        with ExitStack() as stack:
            with self._writing(SCRATCH):
                self._scratch = stack.enter_context(self.folder.scratch())
                for name in self.folder.names():
                    if is_unfinished(name, MANIFEST):  # left by a killed run
                        self.folder.remove(name)
            yield self._scratch

    def write(self, part: EncodedPart) -> None:
        """Add one part.

        Raises:
            PublishError: it cannot be written: no space, no permission or no network.
        """
        name = self.manifest.next_part
        file = self._scratch / "part.parquet"
        with self._writing(name):
            file.write_bytes(part.content)
            self._start()
            self.folder.put(file, name)
        self._record(parts={**self.manifest.parts, name: part.finished})

    def finish(self, empty: pa.Table) -> None:
        """Mark the output complete; a run without users gets one part without rows, `empty`."""
        if not self.manifest.parts:
            self.write(EncodedPart.of(empty, PartCounts()))
        self._record(complete=True)

    def _start(self) -> None:
        """Replace the manifest in the folder by this run's, before the first part is added."""
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
        with self._writing(MANIFEST):
            self.folder.put_text(MANIFEST, manifest.to_json())

    def _writing(self, name: str) -> AbstractContextManager[None]:
        return raised_as(
            PublishError,
            OSError,
            "cannot be written",
            self.folder.name_of(name),
            remedy="Finished parts are kept: remove the cause and run again with --resume.",
        )


def open_output(
    folder: Folder, resume_key: ResumeKey, generated_at: datetime, *, resume: bool, overwrite: bool
) -> PartWriter:
    """Inspect the output folder; nothing is written or removed yet.

    Args:
        folder: The output folder.
        resume_key: What the rows of this run depend on.
        generated_at: The start of this run; a resumed run keeps the first one's.
        resume: Whether to continue the run whose output is there.
        overwrite: Whether to replace the output that is there.

    Raises:
        ConfigError: the folder is not empty and neither flag is set; or one is set, and there are
            files that fearec-score did not write.
        ResumeError: `resume` is set, and there is no run with this key.
        StorageError: the folder cannot be read.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other", folder.where)
    with storage_errors(folder.where):
        if folder.is_file():
            raise ConfigError("the output must be a folder", folder.where, found="a file")
        names = folder.names()
        fresh = Manifest(resume_key=resume_key, generated_at=generated_at, parts={}, complete=False)
        if not names:
            return PartWriter(folder, fresh)
        if not (resume or overwrite):
            raise ConfigError(
                "the output folder is not empty",
                folder.where,
                remedy="Give another folder, --resume to continue an interrupted run, or "
                "--overwrite to replace it.",
            )
        _check_links(folder)
        names = {name for name in names if not _is_unfinished(name)}
        if not names:  # from a run that was killed before its first part
            return PartWriter(folder, fresh)
        try:
            before = read_manifest(folder)
        except ResumeError:
            if resume:
                raise
            before = None
        if resume and before is not None:
            check_resume_key(folder.where, before.resume_key, resume_key)
        _check_own_files(folder, names, before)
        if resume and before is not None:
            return PartWriter(folder, intact(before, folder), before)
    return PartWriter(folder, fresh, before)


def _is_unfinished(name: str) -> bool:
    """Whether a killed run may have left a file of this name."""
    return name in (LOCK, SCRATCH) or is_unfinished(name, MANIFEST)


def _check_links(folder: Folder) -> None:
    links = folder.links()
    if links:
        raise ConfigError(
            "the output folder holds a symbolic link, which fearec-score did not write",
            folder.name_of(min(links)),
            remedy="Give another folder, or remove the link.",
        )


def _check_own_files(folder: Folder, names: set[str], before: Manifest | None) -> None:
    ours = {MANIFEST, *before.files} if before is not None else set()
    foreign = sorted(names - ours)
    if foreign:
        raise ConfigError(
            "the output folder holds files that fearec-score did not write",
            folder.where,
            expected=f"only what its {MANIFEST} lists",
            found=", ".join(foreign[:3]),
            remedy="Give another folder, or move them away.",
        )
