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


def replace_text(path: Path, text: str) -> None:
    """Write a small file by rename: readers see the old text or the new, never a part of it."""
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_text(text, encoding="utf-8")
    fsync(hidden)
    hidden.replace(path)
    fsync(path.parent)
