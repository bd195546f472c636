"""The bundle: a folder with everything that scoring needs of one model, immutable once written."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ConfigError
from model.export.files import (
    CPU_RECOMMENDER,
    ENCODER,
    FLOAT16_RECOMMENDER,
    FLOAT16_TABLE,
    INT8_TABLE,
    ITEM_TABLE,
    RECOMMENDER,
)
from pipeline.bundles.description import (
    DESCRIPTION,
    GO_BACK,
    BundleDescription,
    read_description,
    readable,
)
from pipeline.errors import BundleError
from pipeline.schema import ITEM_ID
from pipeline.storage.atomic_files import fsync
from pipeline.storage.content_hash import content_hash

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ITEMS = "items.parquet"
WEIGHTS = "model.safetensors"
# From before the refit. The next run's evaluated weights start from these, so that they have never
# seen its held-out events.
HELD_OUT_WEIGHTS = "held_out.safetensors"
_OPTIONAL = (CPU_RECOMMENDER, INT8_TABLE, FLOAT16_RECOMMENDER, FLOAT16_TABLE, HELD_OUT_WEIGHTS)
REQUIRED = (ENCODER, RECOMMENDER, ITEM_TABLE, ITEMS, WEIGHTS)


@dataclass(frozen=True)
class Bundle:
    """A published bundle with verified checksums. Get one with `load`."""

    path: Path
    description: BundleDescription

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open a bundle and verify every file's checksum.

        Raises:
            BundleError: the folder is not a bundle or has another format version, or one of its
                files is missing, changed or unreadable.
        """
        path = Path(path)
        bundle = cls(path, read_description(path / DESCRIPTION))
        files = bundle.description.files
        unlisted = (name for name in _OPTIONAL if (path / name).exists())
        for name in (*REQUIRED, *files, *unlisted):
            if name not in files:
                raise BundleError(
                    "the bundle does not list a file that would be used",
                    str(path / DESCRIPTION),
                    expected=name,
                    remedy="Export the model again.",
                )
            if not os.path.isfile(path / name):  # Path.is_file raises if the name is too long
                raise BundleError(
                    "a file of the bundle is missing",
                    str(path / name),
                    remedy=f"Copy the whole folder again. {GO_BACK}",
                )
        for name, expected in files.items():
            with readable(path / name):
                found = content_hash(path / name)
            if found != expected:
                raise BundleError(
                    "wrong checksum",
                    str(path / name),
                    expected=f"sha256 {expected}",
                    found=found,
                    remedy=f"Copy the bundle again. {GO_BACK}",
                )
        return bundle

    def check_table_size(self) -> None:
        """Check that the item table has V rows, of D values each where D is described.

        Raises:
            BundleError: it has another size.
        """
        size = self.item_table.stat().st_size
        width = self.description.hyper_parameters.get("hidden_size")
        column = self.n_items * np.dtype(np.float32).itemsize
        if not size or (size % column if width is None else size != column * width):
            expected = f"a multiple of {column:,}" if width is None else f"{column * width:,}"
            raise BundleError(
                "the item table does not fit the model",
                str(self.item_table),
                expected=f"{expected} bytes",
                found=f"{size:,}",
                remedy="Export the model again.",
            )

    def check_description(self, session: "InferenceSession") -> None:
        """Check that `bundle.json`, which has no checksum, describes a graph of the bundle.

        Args:
            session: Of the encoder or of a recommender.

        Raises:
            BundleError: V, L or another hyper-parameter is not that of the graph.
        """
        shapes = {value.name: value.shape for value in session.get_inputs()}
        metadata = session.get_modelmeta().custom_metadata_map
        graph: dict[str, Any] = json.loads(metadata.get("hyper_parameters", "{}"))
        graph["MAX_ITEM_LIST_LENGTH"] = shapes["item_seq"][1]
        if "item_bias" in shapes:
            (graph["n_items"],) = shapes["item_bias"]
        for name, found in graph.items():
            described = self.description.hyper_parameters.get(name)
            if described != found:
                raise BundleError(
                    "another hyper-parameter than in the graph",
                    str(self.path / DESCRIPTION),
                    expected=f"{name} {found}",
                    found=str(described),
                    remedy=f"Copy the bundle again. {GO_BACK}",
                )

    @property
    def model_version(self) -> str:
        """The model's version, which every recommendation carries."""
        return self.description.model_version

    @property
    def n_items(self) -> int:
        """V: the size of the vocabulary, PAD included."""
        return int(self.description.hyper_parameters["n_items"])

    @property
    def max_length(self) -> int:
        """L: the number of last items that the model sees."""
        return int(self.description.hyper_parameters["MAX_ITEM_LIST_LENGTH"])

    @property
    def encoder(self) -> Path:
        """The graph from sequences to user embeddings."""
        return self.path / ENCODER

    @property
    def recommender(self) -> Path:
        """The graph from sequences to the best items."""
        return self.path / RECOMMENDER

    @property
    def float16_recommender(self) -> Path:
        """The recommender in float16.

        Raises:
            ConfigError: the bundle was exported without it.
        """
        path = self.path / FLOAT16_RECOMMENDER
        if path.name not in self.description.files:
            raise ConfigError(
                "the bundle has no recommender in float16",
                str(self.path),
                expected=path.name,
                remedy="Export with export.fp16 = true, or score with --precision fp32.",
            )
        return path

    @property
    def item_table(self) -> Path:
        """The (V, D) float32 item embeddings, external data of both graphs."""
        return self.path / ITEM_TABLE

    @property
    def item_type(self) -> pa.DataType:
        """The type of the item ids; it raises a BundleError as `items` does."""
        with readable(self.path / ITEMS):
            return pq.read_schema((self.path / ITEMS).absolute()).field(ITEM_ID).type

    def items(self) -> pa.Table:
        """`items.parquet`: item_index, item_id, popularity, last_seen, in index order from 1.

        Raises:
            BundleError: it cannot be read, or has another number of items than the model.
        """
        with readable(self.path / ITEMS):
            # Absolute, because pyarrow takes a relative run:1/items.parquet for a URI.
            table = pq.read_table((self.path / ITEMS).absolute())
        if table.num_rows != self.n_items - 1:
            raise BundleError(
                "the vocabulary does not fit the model",
                str(self.path / ITEMS),
                expected=f"{self.n_items - 1} items",
                found=str(table.num_rows),
                remedy="Export the model again.",
            )
        return table


def publish_bundle(staging: Path, target: Path, description: BundleDescription) -> Bundle:
    """Write `bundle.json` into `staging` and rename it to `target`.

    `staging` must be on the file system of `target`. If `target` already is a bundle of the same
    files, it stays as it is and `staging` is removed; a damaged one is replaced.

    Args:
        staging: A folder with the bundle's files and nothing else.
        target: The bundle's final path.
        description: The content of `bundle.json`, but for `files`, which is filled in here.

    Raises:
        BundleError: a required file is missing, or another bundle is at `target`.
    """
    missing = [name for name in REQUIRED if not (staging / name).is_file()]
    if missing:
        raise BundleError("the bundle lacks a file", str(staging), expected=", ".join(missing))
    names = sorted(file.name for file in staging.iterdir() if file.name != DESCRIPTION)
    files = {name: content_hash(staging / name) for name in names}
    described = description.model_copy(update={"files": files})
    (staging / DESCRIPTION).write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in (*names, DESCRIPTION, "."):
        fsync(staging / name)
    target.parent.mkdir(parents=True, exist_ok=True)
    published = whole_bundle(target)
    if published is None and put_in_place(staging, target):
        return Bundle(target, described)
    published = published or Bundle.load(target)
    check_same_files(target, published.description.files, files)
    shutil.rmtree(staging)
    return published


def whole_bundle(path: Path) -> Bundle | None:
    """The bundle at a path; None where there is none, or it is not as it was written."""
    try:
        return Bundle.load(path)
    except BundleError:
        return None


def put_in_place(folder: Path, target: Path) -> bool:
    """Rename a bundle's folder to its final path, where a damaged one may be, which is removed.

    Returns:
        Whether it is there now; False where another process put one there meanwhile.
    """
    damaged = folder.with_name(f"{folder.name}.damaged")
    if target.exists():
        target.rename(damaged)
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False
    fsync(target.parent)
    if damaged.is_dir():
        shutil.rmtree(damaged, ignore_errors=True)
    else:
        damaged.unlink(missing_ok=True)
    return True


def check_same_files(
    target: str | Path, found: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    """Check that a bundle to be published equals the one that is already at its place.

    Args:
        target: The path or URI of the bundle that is there.
        found: The checksums of its files, by name.
        expected: The checksums of the bundle to be published.

    Raises:
        BundleError: a file differs.
    """
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            raise BundleError(
                "another bundle is already published here",
                f"{target}/{name}",
                expected=f"sha256 {expected.get(name, 'of no such file')}",
                found=found.get(name, "no such file"),
                remedy="Bundles never change: publish under another model version.",
            )
