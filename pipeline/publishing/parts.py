"""The parts that a scoring run left, verified as they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import PublishError, ResumeError
from pipeline.schema import USER_ID
from pipeline.scoring.manifest import MANIFEST, Manifest, read_manifest
from pipeline.storage.folders import Folder, open_folder
from pipeline.warehouse.lists import list_columns

_SCORE_AGAIN = "Run `fearec score --force` for this date, then publish again."


@dataclass(frozen=True)
class ScoredParts:
    """A finished scoring run's output; get one with `open_parts`.

    Attributes:
        folder: Holds the parts.
        manifest: Lists them.
        dataset: Their rows.
    """

    folder: Folder
    manifest: Manifest
    dataset: ds.Dataset

    def read(self, name: str) -> pa.Buffer:
        """The content of a part, which is read once and hashed.

        Raises:
            PublishError: the part is not as it was written.
        """
        content = self.folder.read(name)
        expected, found = self.manifest.parts[name].content_hash, sha256(content).hexdigest()
        if expected not in (None, found):
            raise _changed(self.folder.name_of(name), f"sha256 {expected}", found)
        return pa.py_buffer(content)

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of each part: memory holds one part at a time.

        Raises:
            PublishError: a part is not as it was written.
        """
        for name in self.manifest.parts:
            yield pq.read_table(pa.BufferReader(self.read(name)), columns=columns)

    def rows(self) -> pa.RecordBatchReader:
        """The users and items of all parts, with the columns of their layout, as a stream."""
        return self.dataset.scanner([USER_ID, *list_columns(self.dataset.schema)]).to_reader()


def open_parts(where: str) -> ScoredParts:
    """Open the folder of a scoring run.

    Raises:
        PublishError: the run did not end, has no row, or parts are missing or changed.
    """
    folder = open_folder(where)
    manifest = _read_manifest(folder)
    missing = sorted(manifest.parts.keys() - folder.names())
    if missing:
        raise PublishError("a part is missing", folder.name_of(missing[0]), remedy=_SCORE_AGAIN)
    paths = [folder.path(name) for name in manifest.parts]
    rows = ds.dataset(paths, format="parquet", filesystem=folder.filesystem)
    expected = sum(part.n_rows for part in manifest.parts.values())
    found = rows.count_rows()
    if found != expected:
        raise _changed(folder.where, f"{expected} rows", str(found))
    if not found:
        raise PublishError(
            "no recommendations",
            folder.where,
            found=f"{len(manifest.parts)} parts without rows",
            remedy="The table is as it was. Check score.allow, score.deny and the logs.",
        )
    return ScoredParts(folder, manifest, rows)


def _read_manifest(folder: Folder) -> Manifest:
    try:
        manifest = read_manifest(folder)
    except ResumeError:
        raise PublishError(
            "no scored parts", folder.where, expected=f"a {MANIFEST}", remedy=_SCORE_AGAIN
        ) from None
    if not manifest.complete:
        raise PublishError(
            "the scoring run did not end",
            folder.name_of(MANIFEST),
            remedy="Run `fearec score` for this date: it goes on where it stopped.",
        )
    return manifest


def _changed(where: str, expected: str, found: str) -> PublishError:
    return PublishError(
        "the parts are not as they were written", where, expected, found, _SCORE_AGAIN
    )
