"""Folders whose files appear whole or not at all, on a local disk or in an object store.

On a disk a file is written under another name and renamed. In a store an object becomes visible
when its upload ends; the upload is one call outside Python, so no signal can interrupt it.
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

from pipeline.errors import ConfigError, StorageError, one_line, raised_as
from pipeline.storage.atomic_files import fsync, replace_text
from pipeline.storage.credentials import check_no_credentials
from pipeline.storage.locks import exclusive_lock

# Names that a killed run may leave in a local folder.
SCRATCH = ".spill"
LOCK = ".lock"

_LOCAL = pafs.LocalFileSystem()


class Folder(ABC):
    """A folder and the files directly in it. Get one with `open_folder`.

    Every method raises OSError where the disk or the store fails, and FileNotFoundError where a
    file or bucket does not exist.

    Attributes:
        where: The path or URI, for messages.
        filesystem: Arrow's file system, for reading the files.
        root: The folder's absolute path in `filesystem`.
    """

    def __init__(self, where: str, filesystem: pafs.FileSystem, root: str) -> None:
        self.where = where
        self.filesystem = filesystem
        self.root = root

    def path(self, name: str) -> str:
        """A file's path in `filesystem`."""
        return f"{self.root}/{name}"

    def name_of(self, name: str) -> str:
        """A file's path or URI, for messages."""
        return f"{self.where.rstrip('/')}/{name}"

    def is_file(self) -> bool:
        """Whether the path is a file instead of a folder."""
        return bool(self.filesystem.get_file_info(self.root).is_file)

    def names(self) -> set[str]:
        """The names of everything in the folder; none where it does not exist yet."""
        below = pafs.FileSelector(self.root, allow_not_found=True)
        return {info.base_name for info in self.filesystem.get_file_info(below)}

    def links(self) -> set[str]:
        """The names in the folder that are symbolic links; a store has none."""
        return set()

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self.filesystem.open_input_stream(self.path(name)) as file:
            return bytes(file.read())

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def holds(self, filesystem: pafs.FileSystem, path: str) -> bool:
        """Whether a path is the folder or lies in it, at any depth."""
        inside = PurePosixPath(resolved(filesystem, path)).is_relative_to(self.root)
        return inside and self.filesystem.equals(filesystem)

    @abstractmethod
    def put(self, file: Path, name: str) -> None:
        """Move a finished file from `scratch` into the folder, under that name."""

    @abstractmethod
    def put_new(self, name: str, content: pa.Buffer) -> None:
        """Write a file that nobody looks for yet; the folder is made if need be."""

    @abstractmethod
    def put_text(self, name: str, text: str) -> None:
        """Write a small file; readers see the old text or the new text, never a mixture."""

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """A local folder for temporary files, removed afterwards."""


class LocalFolder(Folder):
    """A folder on a local disk."""

    def __init__(self, where: str | Path) -> None:
        super().__init__(str(where), _LOCAL, str(Path(where).resolve()))

    def names(self) -> set[str]:
        """The names of everything in the folder, broken links and names not in UTF-8 included."""
        with suppress(FileNotFoundError):
            return set(os.listdir(self.root))
        return set()

    def links(self) -> set[str]:
        """The names in the folder that are symbolic links."""
        return {name for name in self.names() if os.path.islink(self.path(name))}

    def put(self, file: Path, name: str) -> None:
        """Move a file into the folder, by rename."""
        fsync(file)
        file.replace(self.path(name))
        fsync(Path(self.root))

    def put_new(self, name: str, content: pa.Buffer) -> None:
        """Write a file to the disk itself."""
        file = Path(self.path(name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        fsync(file)
        fsync(file.parent)

    def put_text(self, name: str, text: str) -> None:
        """Write a small file, by rename."""
        replace_text(Path(self.path(name)), text)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for temporary files inside this one, which is locked meanwhile.

        If this folder had to be created and is empty afterwards, it is removed too.

        Raises:
            BusyError: another process writes to the folder.
        """
        root = Path(self.root)
        scratch, lock = root / SCRATCH, root / LOCK
        created = not root.exists()
        with exclusive_lock(lock, "another run writes here", Path(self.where)):
            try:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                with suppress(OSError):  # it would replace an earlier error
                    lock.unlink(missing_ok=True)  # safe while held: filelock takes no deleted file
                    if created:
                        root.rmdir()  # fails unless the folder is empty


class StoreFolder(Folder):
    """The objects under one prefix of an object store."""

    def names(self) -> set[str]:
        """The names of everything in the folder; a missing bucket is an error."""
        bucket = PurePosixPath(self.root).parts[0]
        if self.filesystem.get_file_info(bucket).type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket {bucket}")
        return super().names()

    def put(self, file: Path, name: str) -> None:
        """Move a file into the folder, by one upload."""
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

    def put_new(self, name: str, content: pa.Buffer) -> None:
        """Write a file, by one upload."""
        with self.filesystem.open_output_stream(self.path(name)) as file:
            file.write(content)

    def put_text(self, name: str, text: str) -> None:
        """Write a small file, by one upload."""
        with self.scratch() as scratch:
            file = scratch / name
            file.write_text(text, encoding="utf-8")
            self.put(file, name)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for temporary files on the local disk, in ``TMPDIR``."""
        with TemporaryDirectory(prefix="fearec-") as folder:
            yield Path(folder)


def open_folder(where: str | os.PathLike[str]) -> Folder:
    """The folder at a local path or at a URI such as ``s3://bucket/folder``.

    Raises:
        ConfigError: the path is empty, or the URI is not usable or holds a key.
    """
    text = os.fspath(where)
    if not text:  # from an unset shell variable; it must not mean the current folder
        raise _unusable(text, "an empty path")
    _check_encoding(text)
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


def is_plain_name(name: str) -> bool:
    """Whether a name that a file of ours carries is of one file or folder, and of no other place.

    Letters, digits, dots, dashes and underscores; the first is no dot.
    """
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name) is not None


def is_uri(path: str) -> bool:
    """Whether a path has a scheme, such as ``s3:``."""
    return re.match(r"[A-Za-z][\w+.-]+:/", path) is not None


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's file system for a local path or a URI, and the path in it.

    Raises:
        ConfigError: the URI holds a key, or the path is not UTF-8.
        pa.ArrowInvalid: the URI is not usable.
        OSError: the store is not reachable.
    """
    _check_encoding(path)
    if is_uri(path):
        check_no_credentials(path)
        return pafs.FileSystem.from_uri(path)
    if re.match(r"[A-Za-z][\w+.-]+:", path):  # which Arrow takes for a URI, unless it is absolute
        return _LOCAL, Path(path).absolute().as_posix()
    return _LOCAL, PurePosixPath(path or ".").as_posix()


def _check_encoding(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError("a path that is not UTF-8", path, remedy="Rename it.") from None


def resolved(filesystem: pafs.FileSystem, path: str) -> str:
    """A path for comparisons: on a local disk absolute, with symbolic links resolved."""
    return os.path.realpath(path) if isinstance(filesystem, pafs.LocalFileSystem) else path


def storage_errors(where: str) -> AbstractContextManager[None]:
    """Translate what Arrow's file systems raise about one file or folder into a `StorageError`."""
    return raised_as(
        StorageError,
        (OSError, pa.ArrowException),
        "cannot be read or written",
        where,
        remedy="Check the path, the permissions or credentials, and the network.",
    )


def _unusable(uri: str, found: str) -> ConfigError:
    return ConfigError(
        "not a folder's URI",
        uri,
        expected="a path, s3://bucket/folder, gs://bucket/folder or "
        "abfs://container@account.dfs.core.windows.net/folder",
        found=found,
    )
