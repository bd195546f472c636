"""Checkpoints that are whole: never half a file, and damage is noticed."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

# What zipfile raises about headers of random bytes, besides its own error.
_DAMAGE = (NotImplementedError, RuntimeError, ValueError, EOFError, struct.error)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's writer of checkpoints, all or nothing: on a full disk and after SIGTERM too."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the old file, then rename."""
        unfinished = Path(path).with_suffix(".part")
        try:
            super().save_checkpoint(checkpoint, unfinished, storage_options)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is as it was written: PyTorch's own reader checks no CRC."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (FileNotFoundError, zipfile.BadZipFile, zlib.error, *_DAMAGE):
        return False
