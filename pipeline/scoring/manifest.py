"""`_manifest.json`: the finished parts of a scoring run's output, and what their rows depend on.

Readers of Parquet folders skip this file, because its name begins with an underscore.
"""

import hashlib
from datetime import datetime
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError, field_validator

from model.pydantic_base import Frozen
from pipeline.errors import ConfigError, ResumeError
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import Folder

MANIFEST = "_manifest.json"


class ResumeKey(Frozen):
    """What the rows of a run depend on; a run with another key cannot be resumed."""

    section = "manifest.binding"

    model_version: str
    bundle: dict[str, str]
    inputs: dict[str, str]
    settings: dict[str, Any]


class PartCounts(Frozen):
    """Counts of one part, or of all parts together."""

    section = "manifest.parts"

    n_users: int = 0
    n_rows: int = 0
    n_fallback: int = 0  # users given popular items
    n_short: int = 0  # users given fewer than top_k items

    def __add__(self, other: "PartCounts") -> "PartCounts":
        counts = PartCounts.model_fields
        return PartCounts(**{name: getattr(self, name) + getattr(other, name) for name in counts})


class FinishedPart(PartCounts):
    """One part in the folder."""

    content_hash: str | None = None  # None where version 0.1.0 wrote the part


def part_name(number: int) -> str:
    """The file name of a part, counted from 0."""
    return f"part-{number:05d}.parquet"


class Manifest(Frozen):
    """The content of `_manifest.json`."""

    model_config = ConfigDict(populate_by_name=True)

    section = "manifest"

    resume_key: ResumeKey = Field(alias="binding")  # the file keeps its first name
    generated_at: datetime  # the start of the first run, so that a resumed run writes the same rows
    parts: dict[str, FinishedPart]
    complete: bool
    checksum: str | None = None  # of all above; None where version 0.1.0 wrote the file

    @field_validator("parts")
    @classmethod
    def _as_written(cls, parts: dict[str, FinishedPart]) -> dict[str, FinishedPart]:
        # Listed files may be replaced and removed, so no other name is taken from a manifest.
        if list(parts) != [part_name(number) for number in range(len(parts))]:
            raise ValueError("the parts are not named in order, from part-00000.parquet")
        return parts

    @property
    def next_part(self) -> str:
        """The name of the next part."""
        return part_name(len(self.parts))

    @property
    def files(self) -> set[str]:
        """The parts, and the next one, which a killed run may have written but not listed."""
        return {*self.parts, self.next_part}

    @property
    def is_whole(self) -> bool:
        """Whether the values are those that the checksum is of."""
        return self.checksum in (None, self._checksum())

    def to_json(self) -> str:
        """The text of the file."""
        summed = self.model_copy(update={"checksum": self._checksum()})
        return summed.model_dump_json(indent=1, by_alias=True) + "\n"

    def _checksum(self) -> str:
        content = self.model_dump_json(by_alias=True, exclude={"checksum"})
        return hashlib.sha256(content.encode()).hexdigest()


def read_manifest(folder: Folder) -> Manifest:
    """Read a folder's manifest.

    Raises:
        ResumeError: there is no manifest, or it is not valid.
        OSError: it cannot be read.
    """
    try:
        manifest = Manifest.model_validate_json(folder.read(MANIFEST))
        if manifest.is_whole:
            return manifest
        found = "its manifest is not as it was written"
    except FileNotFoundError:
        found = "there is no manifest"
    except (ValidationError, ConfigError):
        found = "its manifest is not valid"
    raise ResumeError(
        f"the output folder holds no run to resume: {found}",
        folder.name_of(MANIFEST),
        remedy="Give an empty folder.",
    )


def intact(manifest: Manifest, folder: Folder) -> Manifest:
    """The manifest cut before the first part that is missing or not as it was written."""
    kept = dict(takewhile(lambda part: _is_intact(folder, *part), manifest.parts.items()))
    if len(kept) == len(manifest.parts):
        return manifest
    return manifest.model_copy(update={"parts": kept, "complete": False})


def check_resume_key(where: str, before: ResumeKey, now: ResumeKey) -> None:
    """Check that a run to be resumed had the same bundle, input and settings.

    Raises:
        ResumeError: something differs; the error names the first difference.
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
            remedy="Start again with --overwrite, or in another folder.",
        )


def _is_intact(folder: Folder, name: str, part: FinishedPart) -> bool:
    """Whether a part has its content; one without a hash, whether it has its number of rows."""
    try:
        if part.content_hash is not None:
            return content_hash(folder.name_of(name)) == part.content_hash
        metadata = pq.read_metadata(folder.path(name), filesystem=folder.filesystem)
    except (OSError, pa.ArrowException):
        return False
    return int(metadata.num_rows) == part.n_rows
