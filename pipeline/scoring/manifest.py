"""`_manifest.json`: which parts of a scoring run's output are done, and what they depend on.

Readers of Parquet folders skip it, as its name begins with an underscore.
"""

from datetime import datetime
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from model.errors import ConfigError
from model.pydantic_base import Frozen
from pipeline.errors import ResumeError
from pipeline.storage.folders import Folder

MANIFEST = "_manifest.json"


class ResumeKey(Frozen):
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

    binding: ResumeKey
    generated_at: datetime  # of the run's start, so that a resumed run writes the same rows
    parts: dict[str, PartCounts]
    complete: bool

    @property
    def next_part(self) -> str:
        """The name of the part that follows."""
        return f"part-{len(self.parts):05d}.parquet"

    @property
    def files(self) -> set[str]:
        """Its parts, and the one that a kill may have left there but not entered."""
        return {*self.parts, self.next_part}


def read_manifest(folder: Folder) -> Manifest:
    """A folder's manifest.

    Raises:
        ResumeError: there is none, or none that can be understood.
        OSError: it cannot be read.
    """
    try:
        return Manifest.model_validate_json(folder.read(MANIFEST))
    except FileNotFoundError:
        found = "there is no manifest"
    except (ValidationError, ConfigError):
        found = "its manifest cannot be read"
    raise ResumeError(
        f"the output folder holds no run to resume: {found}",
        folder.told(MANIFEST),
        remedy="Give an empty folder.",
    )


def intact(manifest: Manifest, folder: Folder) -> Manifest:
    """The manifest up to the first part that is not as it was written."""
    kept = dict(
        takewhile(
            lambda part: _count_rows(folder, part[0]) == part[1].n_rows, manifest.parts.items()
        )
    )
    if len(kept) == len(manifest.parts):
        return manifest
    return manifest.model_copy(update={"parts": kept, "complete": False})


def refuse_changes(where: str, before: ResumeKey, now: ResumeKey) -> None:
    """Refuse to resume a run of another bundle, input or settings.

    Raises:
        ResumeError: naming the first difference.
    """
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    for field in ResumeKey.model_fields:
        if old[field] == new[field]:
            continue
        place, found, expected = field, new[field], old[field]
        if isinstance(found, dict) and isinstance(expected, dict):
            key = min(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            place, found, expected = f"{field} {key}", found.get(key), expected.get(key)
        raise ResumeError(
            f"the run cannot be resumed: {place} is not what it was",
            where,
            expected=str(expected),
            found=str(found),
            remedy="Begin again with --overwrite, or in another folder.",
        )


def _count_rows(folder: Folder, part: str) -> int | None:
    try:
        metadata = pq.read_metadata(folder.path(part), filesystem=folder.filesystem)
    except (OSError, pa.ArrowException):
        return None
    return int(metadata.num_rows)
