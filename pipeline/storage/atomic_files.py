"""Writing files so that they are there whole, or not at all, whatever moment the power goes."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hidden(name: str) -> str:
    """What a file is called until it is finished."""
    return f".{name}.tmp"


def replace_text(path: Path, text: str) -> None:
    """Write a small file by rename: readers see the old text or the new, never a part of it."""
    unfinished = path.with_name(hidden(path.name))
    unfinished.write_text(text, encoding="utf-8")
    fsync(unfinished)
    unfinished.replace(path)
    fsync(path.parent)
