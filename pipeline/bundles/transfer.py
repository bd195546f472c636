"""Bundles in object stores: uploaded whole, and copied here to be used.

ONNX Runtime maps a bundle's item table from local files, so a bundle is always used from a disk.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.fs as pafs

from pipeline.bundles.bundle import DESCRIPTION, Bundle, read_description, refuse_other
from pipeline.errors import BundleError
from pipeline.storage.atomic_files import fsync
from pipeline.storage.folders import Folder, LocalFolder, StoreFolder, open_folder, storage_errors


@contextmanager
def opened_bundle(where: str | os.PathLike[str]) -> Iterator[Bundle]:
    """A bundle, from a path or, copied for as long as it is used, from an object store.

    Raises:
        BundleError: there is none, or it is not as it was written.
        ConfigError: the URI cannot be used.
        StorageError: the store cannot be read, or there is no room for the copy.
    """
    folder = open_folder(where)
    if isinstance(folder, LocalFolder):
        yield Bundle.load(folder.where)
        return
    with TemporaryDirectory(prefix="fearec-") as copy:
        yield _copy(folder, Path(copy))


def download_bundle(folder: Folder, target: Path) -> None:
    """Copy a store's bundle to a local path, all or nothing, unless it is there already.

    Raises:
        BundleError: there is none, or it is not as it was written.
        StorageError: the store cannot be read, or there is no room for the copy.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch:
        copy = Path(scratch) / target.name
        copy.mkdir()
        for name in (*_copy(folder, copy).description.files, DESCRIPTION, "."):
            fsync(copy / name)
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():  # otherwise another run copied it in between
                raise


def upload_bundle(bundle: Bundle, folder: Folder) -> None:
    """Copy a bundle into a store, `bundle.json` last; what is there already stays as it is.

    Raises:
        BundleError: another bundle is there.
        StorageError: the store cannot be read or written.
    """
    if not isinstance(folder, StoreFolder):
        return  # published there in the first place
    with storage_errors(folder.where):
        if DESCRIPTION in folder.names():
            with (
                TemporaryDirectory(prefix="fearec-") as copy,
                _told_of_the_original(Path(copy), folder),
            ):
                published = _copy_description(folder, Path(copy))
            refuse_other(folder.where, published, bundle.description.files)
            return
        for name in (*bundle.description.files, DESCRIPTION):
            folder.upload(bundle.path / name, name)


def _copy(folder: Folder, target: Path) -> Bundle:
    with storage_errors(folder.where), _told_of_the_original(target, folder):
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
                    folder.told(name),
                    remedy="Copy the whole folder again, or export the model again.",
                ) from None
        return Bundle.load(target)


def _copy_description(folder: Folder, target: Path) -> dict[str, str]:
    """Copy `bundle.json`; the checksums of the files that it lists."""
    with suppress(FileNotFoundError):  # `read_description` tells of it
        (target / DESCRIPTION).write_bytes(folder.read(DESCRIPTION))
    return read_description(target / DESCRIPTION).files


@contextmanager
def _told_of_the_original(copy: Path, folder: Folder) -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        where = error.where.replace(str(copy), folder.where.rstrip("/"))
        raise BundleError(error.what, where, error.expected, error.found, error.remedy) from None
