"""Atomic file writes: after a crash a file is complete or absent, never partial."""

import os
from pathlib import Path
from uuid import uuid4


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hidden(name: str) -> str:
    """The name that a file has while it is being written."""
    return f".{name}.tmp"


def replace_text(path: Path, text: str) -> None:
    """Write a small file by rename: readers see the old text or the new text, never a mixture.

    Two that write at once, on two machines even, write a file each; the later rename stays.
    """
    unfinished = path.with_name(hidden(path.name))
    try:
        file = unfinished.open("x", encoding="utf-8")
    except FileExistsError:  # another's, or left by one that was killed
        unfinished = path.with_name(hidden(f"{path.name}.{uuid4().hex}"))
        file = unfinished.open("x", encoding="utf-8")
    try:
        with file:
            file.write(text)
        fsync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    fsync(path.parent)
