"""Folders whose files appear whole or not at all, on a disk and in an object store alike.

On a disk a file is written under another name and renamed. In a store an upload is seen when it
has ended, and it is one call outside of Python, so that no signal can end it half-way.
"""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import ConfigError, StorageError, one_line
from pipeline.storage.atomic_files import fsync, replace_text
from pipeline.storage.locks import exclusive_lock

# What a killed run may leave in a folder on a disk.
SCRATCH = ".spill"
LOCK = ".lock"

_LOCAL = pafs.LocalFileSystem()


class Folder(ABC):
    """The files directly in a folder. Get one with `open_folder`.

    Every method raises OSError where the disk or the store fails, FileNotFoundError where what it
    needs is not there.

    Attributes:
        where: As people know it.
        filesystem: Arrow's, to read the files by.
        root: The folder's path in it, absolute.
    """

    def __init__(self, where: str, filesystem: pafs.FileSystem, root: str) -> None:
        self.where = where
        self.filesystem = filesystem
        self.root = root

    def path(self, name: str) -> str:
        """Where the file system has a file."""
        return f"{self.root}/{name}"

    def told(self, name: str) -> str:
        """What people call a file."""
        return f"{self.where.rstrip('/')}/{name}"

    def is_file(self) -> bool:
        """Whether there is a file in the folder's place."""
        return bool(self.filesystem.get_file_info(self.root).is_file)

    def names(self) -> set[str]:
        """Of all that is in the folder; nothing where there is none yet."""
        below = pafs.FileSelector(self.root, allow_not_found=True)
        return {info.base_name for info in self.filesystem.get_file_info(below)}

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self.filesystem.open_input_stream(self.path(name)) as file:
            return bytes(file.read())

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def holds(self, filesystem: pafs.FileSystem, path: str) -> bool:
        """Whether a path lies in the folder, at any depth, or is the folder."""
        inside = PurePosixPath(resolved(filesystem, path)).is_relative_to(self.root)
        return inside and self.filesystem.equals(filesystem)

    @abstractmethod
    def put(self, file: Path, name: str) -> None:
        """Make a finished file of `scratch` the one of that name; it is gone from there."""

    @abstractmethod
    def put_text(self, name: str, text: str) -> None:
        """Write a small file; readers see the old text or the new one, never a part of it."""

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """A local folder for temporary files, gone afterwards."""


class LocalFolder(Folder):
    """On a disk."""

    def __init__(self, where: str | Path) -> None:
        super().__init__(str(where), _LOCAL, str(Path(where).resolve()))

    def put(self, file: Path, name: str) -> None:
        """See `Folder`; by rename."""
        fsync(file)
        file.replace(self.path(name))
        fsync(Path(self.root))

    def put_text(self, name: str, text: str) -> None:
        """See `Folder`; by rename."""
        replace_text(Path(self.path(name)), text)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Folder`; in the folder itself, locked meanwhile.

        A folder that was made for it, and is empty afterwards, goes with it.

        Raises:
            BusyError: another process is at it.
        """
        root = Path(self.root)
        scratch, lock = root / SCRATCH, root / LOCK
        made = not root.exists()
        with exclusive_lock(lock, "another run writes here", Path(self.where)):
            try:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                with suppress(OSError):  # would hide what went wrong before
                    lock.unlink(missing_ok=True)  # a lock held; filelock takes none that is gone
                    if made:
                        root.rmdir()  # fails where it holds something


class StoreFolder(Folder):
    """Objects under one prefix of a store."""

    def names(self) -> set[str]:
        """See `Folder`; a bucket that is not there is an error, not empty."""
        bucket = PurePosixPath(self.root).parts[0]
        if self.filesystem.get_file_info(bucket).type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket {bucket}")
        return super().names()

    def put(self, file: Path, name: str) -> None:
        """See `Folder`; by one upload."""
        self.upload(file, name)
        file.unlink()

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file into the folder."""
        pafs.copy_files(
            str(file),
            self.path(name),
            source_filesystem=_LOCAL,
            destination_filesystem=self.filesystem,
        )

    def put_text(self, name: str, text: str) -> None:
        """See `Folder`; by one upload."""
        with self.scratch() as scratch:
            file = scratch / name
            file.write_text(text, encoding="utf-8")
            self.put(file, name)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Folder`; where the system keeps temporary files (``TMPDIR``)."""
        with TemporaryDirectory(prefix="fearec-") as folder:
            yield Path(folder)


def open_folder(where: str | os.PathLike[str]) -> Folder:
    """The folder of a local path or of a URI such as ``s3://bucket/folder``.

    Raises:
        ConfigError: the path is empty, or the URI cannot be used.
    """
    text = os.fspath(where)
    if not text:  # an unset shell variable, which must not mean the current folder
        raise _unusable(text, "an empty path")
    if not is_uri(text):
        return LocalFolder(text)
    try:
        filesystem, root = open_filesystem(text)
    except pa.ArrowInvalid as error:
        raise _unusable(text, one_line(error)) from None
    if isinstance(filesystem, pafs.LocalFileSystem):
        return LocalFolder(root)
    if not root:
        raise _unusable(text, "no bucket")
    return StoreFolder(text, filesystem, root.rstrip("/"))


def is_uri(path: str) -> bool:
    """Whether a path has a scheme, such as ``s3:``."""
    return re.match(r"[A-Za-z][\w+.-]+:/", path) is not None


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's file system for a local path or a URI, and the path in it.

    Raises:
        pa.ArrowInvalid: the URI cannot be used.
        OSError: the store is away.
    """
    if is_uri(path):
        return pafs.FileSystem.from_uri(path)
    return _LOCAL, PurePosixPath(path or ".").as_posix()


def resolved(filesystem: pafs.FileSystem, path: str) -> str:
    """A path by which to compare: absolute, and where links lead, if it is on a disk."""
    return str(Path(path).resolve()) if isinstance(filesystem, pafs.LocalFileSystem) else path


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Make what Arrow's file systems raise about one file or folder one `StorageError`.

    Raises:
        StorageError: with what was raised as its cause.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            "cannot be read or written",
            where,
            found=one_line(error),
            remedy="See to the path, the permissions or credentials, and the network.",
        ) from error


def _unusable(uri: str, found: str) -> ConfigError:
    return ConfigError(
        "not a folder's URI",
        uri,
        expected="a path, s3://bucket/folder, gs://bucket/folder or "
        "abfs://container@account.dfs.core.windows.net/folder",
        found=found,
    )
