"""Conditional writes: of two processes that change one thing at once, neither loses its change.

A process writes only what it has made of the newest state: under a lock on a local disk, and in an
object store by a put that the store refuses where the object is no longer the one that was read.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import ConflictError, StorageError, first_line, raised_as
from pipeline.storage.folders import Folder, StoreFolder
from pipeline.storage.locks import exclusive_lock

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

Result = TypeVar("Result")

_TRIES = 5
_WAIT = 30.0  # seconds for a lock that is held for milliseconds


def until_committed(decide_and_write: Callable[[], Result]) -> Result:
    """Call a function again, a few times, where what it had read changed before it wrote.

    Raises:
        ConflictError: it changed each time.
    """
    for _ in range(_TRIES - 1):
        with suppress(ConflictError):
            return decide_and_write()
    return decide_and_write()


def read_file(folder: Folder, name: str) -> bytes | None:
    """The content of a small file, read as `change_file` reads it; None where there is none.

    Raises:
        StorageError: the store is away, or refuses the credentials.
        OSError: the disk fails.
    """
    if isinstance(folder, StoreFolder):
        content, _ = _get(folder, name)
        return content
    with suppress(FileNotFoundError):
        return folder.read(name)
    return None


def change_file(folder: Folder, name: str, change: Callable[[bytes | None], str | None]) -> None:
    """Replace a small file by what a function makes of its content.

    Readers see the old text or the new text, never a mixture.

    Args:
        folder: Where the file is.
        name: The file's name.
        change: Takes the content, None where there is no file; returns the new text, or None to
            leave the file as it is. It is called again where another process wrote meanwhile.

    Raises:
        ConflictError: other processes wrote to it each time that it was tried, or one has held its
            lock for long. Not a BusyError: that is about a whole run, which another one does.
        StorageError: the store is away, or refuses the credentials or conditional writes.
        OSError: the disk fails.
    """
    if isinstance(folder, StoreFolder):
        until_committed(lambda: _change_object(folder, name, change))
        return
    lock = Path(folder.path(f".{name}.lock"))
    busy = "another process writes this file"
    where = Path(folder.name_of(name))
    with exclusive_lock(lock, busy, where, wait=_WAIT, error=ConflictError):
        try:
            text = change(read_file(folder, name))
            if text is not None:
                folder.put_text(name, text)
        finally:
            with suppress(OSError):  # it would replace an earlier error
                lock.unlink(missing_ok=True)  # safe while held: filelock takes no deleted file


def _change_object(
    folder: StoreFolder, name: str, change: Callable[[bytes | None], str | None]
) -> None:
    from obstore import put
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    content, version = _get(folder, name)
    text = change(content)
    if text is None:
        return
    with _store_errors(folder, name):
        try:
            put(_client(folder), name, text.encode(), mode=version or "create")
        except (AlreadyExistsError, PreconditionError) as error:
            raise ConflictError(
                "another process wrote to the file meanwhile",
                folder.name_of(name),
                remedy="Nothing was changed; run it again when the other has ended.",
            ) from error


def _get(folder: StoreFolder, name: str) -> tuple[bytes | None, "UpdateVersion | None"]:
    """The content of an object, and the version that a put may replace."""
    from obstore import get

    with _store_errors(folder, name):
        try:
            found = get(_client(folder), name)
            content = bytes(found.bytes())
        except FileNotFoundError:
            return None, None
    version: UpdateVersion = {}
    if tag := found.meta["e_tag"]:
        version["e_tag"] = tag
    if number := found.meta["version"]:
        version["version"] = number
    return content, version


def _client(folder: StoreFolder) -> "ObjectStore":
    from obstore.store import from_url

    return from_url(folder.where.rstrip("/"), **_credentials(folder.where))


def _credentials(uri: str) -> dict[str, Any]:
    """AWS's profiles and single sign-on, which Arrow and delta-rs know: by boto3, if installed."""
    if not uri.startswith("s3") or "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return {"credential_provider": Boto3CredentialProvider()}
    except (ImportError, ValueError):  # not installed, or without credentials
        return {}


def _store_errors(folder: StoreFolder, name: str) -> Any:
    from obstore.exceptions import BaseError

    return raised_as(
        StorageError,
        (BaseError, OSError, ValueError),
        "cannot be read or written",
        folder.name_of(name),
        remedy="Check the network, and the credentials in the environment; those of an AWS profile"
        " need boto3.",
        message=first_line,
    )
