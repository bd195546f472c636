"""The files below a local folder: links are followed, but no loops; names have any encoding."""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple


class FoundFile(NamedTuple):
    """A regular file, or a link whose target is missing."""

    name: str  # relative to the folder, as `os.fsdecode` makes it of bytes that are not UTF-8
    size: int  # bytes; 0 of a broken link
    modified: int  # nanoseconds since the epoch; 0 of a broken link


def files_below(folder: str) -> Iterator[FoundFile]:
    """The files at any depth, in no order. A link to a folder that it lies in is not followed.

    Raises:
        OSError: a folder cannot be listed.
    """
    return _files_below(folder, "", ())


def _files_below(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[FoundFile]:
    of_folder = os.stat(folder)
    key = of_folder.st_dev, of_folder.st_ino
    if key in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            try:
                info = entry.stat()
            except OSError:
                if not entry.is_symlink():
                    raise
                yield FoundFile(name, 0, 0)
                continue
            if stat.S_ISDIR(info.st_mode):
                yield from _files_below(entry.path, f"{name}/", (*above, key))
            elif stat.S_ISREG(info.st_mode):
                yield FoundFile(name, info.st_size, info.st_mtime_ns)
