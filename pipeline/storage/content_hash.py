"""The hash by which file contents are compared."""

import hashlib
import os
from pathlib import Path

from pipeline.storage.folders import is_uri, open_filesystem


def content_hash(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's content, 64 hexadecimal digits.

    Args:
        path: A local path, or an object's URI.

    Raises:
        OSError: the file is missing or cannot be read.
        pa.ArrowInvalid: the URI cannot be used.
    """
    where = os.fspath(path)
    if not is_uri(where):
        with Path(where).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    filesystem, inner = open_filesystem(where)
    with filesystem.open_input_file(inner) as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest()
