"""Atomic file writes: after a crash a file is complete or absent, never partial."""

import os
from pathlib import Path


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
    """Write a small file by rename: readers see the old text or the new text, never a mixture."""
    unfinished = path.with_name(hidden(path.name))
    unfinished.write_text(text, encoding="utf-8")
    fsync(unfinished)
    unfinished.replace(path)
    fsync(path.parent)
