"""The output folder of a scoring run: Parquet parts, and the manifest that says which are done.

A part is written under a hidden name, renamed, and only then entered in the manifest, itself
replaced by rename; so whatever moment a run is killed at, no half of a part is ever visible, and
``--resume`` goes on after the last part entered. What the manifest lists is ours to replace, and
nothing else is, so a part stays listed until it is gone. Readers of Parquet folders skip the
manifest, whose name begins with an underscore.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from model.config import Frozen
from model.errors import ConfigError
from pipeline.durable import fsync, replace_text
from pipeline.errors import PublishError, ResumeError
from pipeline.schema import ITEM_ID, SCORE

MANIFEST = "_manifest.json"
_SPILL = ".spill"
_HIDDEN_PART = ".part.tmp"
_UNFINISHED = {_SPILL, _HIDDEN_PART, f".{MANIFEST}.tmp"}


class Binding(Frozen):
    """What decides the rows: a run may only be resumed where all of this is the same."""

    section = "manifest.binding"

    model_version: str
    bundle: dict[str, str]
    inputs: dict[str, str]
    settings: dict[str, Any]


class PartCounts(Frozen):
    """What one part holds, or all of them together."""

    section = "manifest.parts"

    n_users: int = 0
    n_rows: int = 0
    n_fallback: int = 0  # users given popular items
    n_short: int = 0  # users given fewer than top_k items

    def __add__(self, other: "PartCounts") -> "PartCounts":
        return PartCounts(
            n_users=self.n_users + other.n_users,
            n_rows=self.n_rows + other.n_rows,
            n_fallback=self.n_fallback + other.n_fallback,
            n_short=self.n_short + other.n_short,
        )


class Manifest(Frozen):
    """`_manifest.json`."""

    section = "manifest"

    binding: Binding
    generated_at: datetime  # of the run's start, so that a resumed run writes the same rows
    parts: dict[str, PartCounts]
    complete: bool


class Output:
    """The folder of one run: `write` its parts in order, then `finish`.

    Args:
        folder: May not exist yet.
        manifest: With the parts that are done.
        before: The folder's own manifest; the parts that only it knows are replaced.
    """

    def __init__(self, folder: Path, manifest: Manifest, before: Manifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._before = before
        self._started = False

    @property
    def done(self) -> PartCounts:
        """What the finished parts hold together."""
        return sum(self.manifest.parts.values(), PartCounts())

    @contextmanager
    def begin(self) -> Iterator[Path]:
        """Create the folder, and in it one for temporary files, which is what this yields.

        A run that fails before its first part leaves everything as it was.
        """
        spill = self.folder / _SPILL
        with self._told(_SPILL):
            shutil.rmtree(spill, ignore_errors=True)
            spill.mkdir(parents=True)
        try:
            yield spill
        finally:
            shutil.rmtree(spill, ignore_errors=True)
            (self.folder / _HIDDEN_PART).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def write(self, table: pa.Table, counts: PartCounts) -> None:
        """Add one part.

        Raises:
            PublishError: it cannot be written, for want of space or permission.
        """
        name = _next_part(self.manifest)
        hidden = self.folder / _HIDDEN_PART
        with self._told(name):
            pq.write_table(table, hidden, compression="zstd", use_dictionary=_repeating(table))
            fsync(hidden)
            self._start()
            hidden.replace(self.folder / name)
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
            for name in sorted(_parts(self._before) - set(self.manifest.parts)):
                (self.folder / name).unlink(missing_ok=True)
        self._save(self.manifest)
        self._started = True

    def _record(self, **changes: Any) -> None:
        manifest = self.manifest.model_copy(update=changes)
        self._save(manifest)
        self.manifest = manifest

    def _save(self, manifest: Manifest) -> None:
        with self._told(MANIFEST):
            replace_text(self.folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublishError(
                f"cannot be written: {error.strerror or error}",
                str(self.folder / name),
                remedy="Finished parts are kept: make room and run again with --resume.",
            ) from None


def local_folder(output: str | Path) -> Path:
    """The output as a path.

    Raises:
        ConfigError: it is a URI.
    """
    where = os.fspath(output)
    if re.match(r"[A-Za-z][\w+.-]+:/", where):  # one slash: what a Path leaves of two
        raise ConfigError(
            "the output must be a local folder",
            where,
            remedy="Write to a local folder, and copy it from there.",
        )
    return Path(where)


def open_output(
    folder: Path, binding: Binding, generated_at: datetime, *, resume: bool, overwrite: bool
) -> Output:
    """Look at the output folder; nothing is written or removed yet.

    Raises:
        ConfigError: the folder holds something and neither flag was given; or, with one, files
            that are not an earlier run's.
        ResumeError: with `resume`, there is no run of this bundle, input and settings.
    """
    where = str(folder)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other", where)
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the output must be a folder", where, found="a file")
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    fresh = Manifest(binding=binding, generated_at=generated_at, parts={}, complete=False)
    if not names:
        return Output(folder, fresh)
    if not (resume or overwrite):
        raise ConfigError(
            "the output folder is not empty",
            where,
            remedy="Give another folder, --resume to go on with a run that was cut short, or "
            "--overwrite to replace it.",
        )
    if names <= _UNFINISHED:  # killed while it began
        return Output(folder, fresh)
    try:
        before = _read_manifest(folder)
    except ResumeError:
        if resume:
            raise
        before = None
    if resume and before is not None:
        _refuse_changes(folder, before.binding, binding)
    ours = {MANIFEST, *_parts(before)} if before is not None else set()
    foreign = sorted(names - ours - _UNFINISHED)
    if foreign:
        raise ConfigError(
            "the output folder holds files that fearec-score did not write",
            where,
            expected=f"only what its {MANIFEST} lists",
            found=", ".join(foreign[:3]),
            remedy="Give another folder, or move them away.",
        )
    if resume and before is not None:
        return Output(folder, _intact(folder, before), before)
    return Output(folder, fresh, before)


def _repeating(table: pa.Table) -> list[str]:
    """Parquet's names of the columns worth a dictionary; scores hardly ever repeat."""
    names = [name for name in table.schema.names if name != SCORE]
    return [*names, f"recommendations.list.element.{ITEM_ID}"]


def _next_part(manifest: Manifest) -> str:
    return f"part-{len(manifest.parts):05d}.parquet"


def _parts(manifest: Manifest) -> set[str]:
    """Its parts, and the one that a kill may have left renamed but not entered."""
    return {*manifest.parts, _next_part(manifest)}


def _intact(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest up to the first part that is not as it was written."""
    kept = dict(
        takewhile(
            lambda part: _count_rows(folder / part[0]) == part[1].n_rows, manifest.parts.items()
        )
    )
    if len(kept) == len(manifest.parts):
        return manifest
    return manifest.model_copy(update={"parts": kept, "complete": False})


def _count_rows(part: Path) -> int | None:
    try:
        return int(pq.read_metadata(part).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "there is no manifest"
    except (OSError, ValidationError, ConfigError, UnicodeDecodeError):
        reason = "its manifest cannot be read"
    raise ResumeError(
        f"the output folder holds no run to resume: {reason}",
        str(path),
        remedy="Give an empty folder.",
    )


def _refuse_changes(folder: Path, before: Binding, now: Binding) -> None:
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    for field in Binding.model_fields:
        if old[field] == new[field]:
            continue
        place, found, expected = field, new[field], old[field]
        if isinstance(found, dict) and isinstance(expected, dict):
            key = min(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            place, found, expected = f"{field} {key}", found.get(key), expected.get(key)
        raise ResumeError(
            f"the run cannot be resumed: {place} is not what it was",
            str(folder),
            expected=str(expected),
            found=str(found),
            remedy="Begin again with --overwrite, or in another folder.",
        )
