"""Atomic file writes: after a crash a file is complete or absent, never partial."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import naming


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_unfinished(name: str, of: str) -> bool:
    """Whether a file has the name that `replace_bytes` gives to a file `of` while it is written."""
    return re.fullmatch(rf"\.{re.escape(of)}(\.[0-9a-f]+)?\.tmp", name) is not None


def unfinished_below(folder: Path) -> Iterator[Path]:
    """The files below a folder that `replace_bytes` has begun, or had when it was killed."""
    for path in files_below(folder):
        if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name):
            yield path


def files_below(folder: Path) -> Iterator[Path]:
    """The files below a folder; one that is removed meanwhile is no error, unlike with `rglob`."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def replace_text(path: Path, text: str) -> None:
    """Write a text as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file by rename: readers see the old content or the new one, never a mixture.

    Several processes may write the same file at once: each writes a file of its own name first,
    newly created, so that nothing is written through a link that has that name.
    """
    unfinished = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with naming(path), unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    fsync(path.parent)
