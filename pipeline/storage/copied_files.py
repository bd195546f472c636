"""Copies of files in memory, for processes of other machines."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StorageError, raised_as


@dataclass(frozen=True)
class CopiedFiles:
    """Files below a folder.

    Attributes:
        contents: uint8, by path in the folder; arrays, as Ray shares these among the processes of
            a node.
    """

    contents: dict[str, NDArray[np.uint8]]

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> Self:
        """Read files.

        Args:
            folder: The folder.
            names: Their paths in it.

        Raises:
            OSError: one cannot be read.
        """
        return cls({name: np.fromfile(folder / name, np.uint8) for name in names})

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """A temporary folder with these files only.

        Raises:
            StorageError: there is no space.
        """
        with TemporaryDirectory(prefix="fearec-") as name:
            folder = Path(name)
            with raised_as(StorageError, OSError, "cannot be written", name):
                for path, content in self.contents.items():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    content.tofile(folder / path)
            yield folder
