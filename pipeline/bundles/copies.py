"""Copies of one graph of a bundle in memory, for processes of other machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from model.export.files import (
    CPU_RECOMMENDER,
    ENCODER,
    FLOAT16_RECOMMENDER,
    FLOAT16_TABLE,
    INT8_TABLE,
    ITEM_TABLE,
    RECOMMENDER,
)
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.description import BundleDescription
from pipeline.errors import BundleError, StorageError, raised_as

_FILES = {
    "encoder": (ENCODER,),
    "fp32": (RECOMMENDER, CPU_RECOMMENDER, INT8_TABLE),
    "fp16": (FLOAT16_RECOMMENDER, FLOAT16_TABLE),
}


@dataclass(frozen=True)
class CopiedGraph:
    """The files of a bundle that one of its graphs needs.

    Attributes:
        description: Of the bundle.
        files: Their contents, uint8, by name; arrays, as Ray shares these among a node's workers.
    """

    description: BundleDescription
    files: dict[str, NDArray[np.uint8]]

    @classmethod
    def of(cls, bundle: Bundle, graph: Literal["encoder", "fp32", "fp16"]) -> Self:
        """Read the files.

        Args:
            bundle: The bundle, just verified.
            graph: The encoder, or the recommender of a precision.

        Raises:
            BundleError: they cannot be read.
        """
        names = {ITEM_TABLE, *_FILES[graph]}
        with raised_as(BundleError, OSError, "cannot be read", str(bundle.path)):
            files = {
                name: np.fromfile(bundle.path / name, np.uint8)
                for name in bundle.description.files
                if name in names
            }
        return cls(bundle.description, files)

    @contextmanager
    def unpacked(self) -> Iterator[Bundle]:
        """A bundle with these files only, in a temporary folder.

        An open graph outlives the folder, as the system keeps mapped files until they are
        closed.

        Raises:
            StorageError: there is no space.
        """
        with TemporaryDirectory(prefix="fearec-") as folder:
            with raised_as(StorageError, OSError, "cannot be written", folder):
                for name, content in self.files.items():
                    content.tofile(Path(folder) / name)
            yield Bundle(Path(folder), self.description)
