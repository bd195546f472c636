"""Bundles in object stores: upload, download, and use of a temporary copy.

ONNX Runtime maps a bundle's item table from local files, so a bundle is always used from a disk.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.fs as pafs

from pipeline.bundles.bundle import Bundle, check_same_files, put_in_place, whole_bundle
from pipeline.bundles.description import DESCRIPTION, read_description
from pipeline.errors import BundleError
from pipeline.storage.atomic_files import fsync
from pipeline.storage.folders import Folder, LocalFolder, StoreFolder, open_folder, storage_errors


@contextmanager
def opened_bundle(where: str | os.PathLike[str]) -> Iterator[Bundle]:
    """Load a bundle from a path or URI; one in an object store is copied for as long as it is used.

    Raises:
        BundleError: there is no bundle, or it is not as it was written.
        ConfigError: the URI is not usable.
        StorageError: the store cannot be read, or there is no space for the copy.
    """
    folder = open_folder(where)
    if isinstance(folder, LocalFolder):
        yield Bundle.load(folder.where)
        return
    with TemporaryDirectory(prefix="fearec-") as copy:
        yield _copy(folder, Path(copy))


def download_bundle(folder: Folder, target: Path) -> None:
    """Copy a bundle from a store to a local path by rename, unless a whole copy is there already.

    Raises:
        BundleError: there is no bundle, or it is not as it was written.
        StorageError: the store cannot be read, or there is no space for the copy.
    """
    if whole_bundle(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch:
        copy = Path(scratch) / target.name
        copy.mkdir()
        for name in (*_copy(folder, copy).description.files, DESCRIPTION, "."):
            fsync(copy / name)
        put_in_place(copy, target)


def upload_bundle(bundle: Bundle, folder: Folder) -> None:
    """Copy a bundle into a store, `bundle.json` last; a bundle that is there already stays.

    Raises:
        BundleError: another bundle is there.
        StorageError: the store cannot be read or written.
    """
    if not isinstance(folder, StoreFolder):
        return  # it was published at this very path
    with storage_errors(folder.where):
        if DESCRIPTION in folder.names():
            with TemporaryDirectory(prefix="fearec-") as copy:
                published = _copy_description(folder, Path(copy))
            check_same_files(folder.where, published, bundle.description.files)
            return
        for name in (*bundle.description.files, DESCRIPTION):
            folder.upload(bundle.path / name, name)


def _copy(folder: Folder, target: Path) -> Bundle:
    with storage_errors(folder.where):
        for name in _copy_description(folder, target):
            try:
                pafs.copy_files(
                    folder.path(name),
                    str(target / name),
                    source_filesystem=folder.filesystem,
                    destination_filesystem=pafs.LocalFileSystem(),
                    chunk_size=1 << 23,
                )
            except FileNotFoundError:
                raise BundleError(
                    "a file of the bundle is missing",
                    folder.name_of(name),
                    remedy="Copy the whole folder again, or export the model again.",
                ) from None
        with _named_as_in(folder, target):
            return Bundle.load(target)


def _copy_description(folder: Folder, target: Path) -> dict[str, str]:
    """Copy `bundle.json`; returns the checksums of the files that it lists."""
    with suppress(FileNotFoundError):  # `read_description` reports it
        (target / DESCRIPTION).write_bytes(folder.read(DESCRIPTION))
    with _named_as_in(folder, target):
        return read_description(target / DESCRIPTION).files


@contextmanager
def _named_as_in(folder: Folder, copy: Path) -> Iterator[None]:
    """Let errors about the copy name the original in the store."""
    try:
        yield
    except BundleError as error:
        where = error.where.replace(str(copy), folder.where.rstrip("/"))
        raise BundleError(error.what, where, error.expected, error.found, error.remedy) from None
