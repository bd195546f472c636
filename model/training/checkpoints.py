"""Checkpoints that are whole: never half a file, and damage is noticed.

A folder of them may move, also between machines: a run goes on wherever it lies.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from model.training.lightning_module import MONITOR

BEST, LAST = "best.ckpt", "last.ckpt"

# What zipfile raises about headers of random bytes, besides its own error.
_DAMAGE = (NotImplementedError, RuntimeError, ValueError, EOFError, struct.error)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's writer of checkpoints, all or nothing: on a full disk and after SIGTERM too.

    Args:
        on_saved: Called with the path of each, once it is there.
    """

    def __init__(self, on_saved: Callable[[Path], None] | None = None) -> None:
        super().__init__()
        self.on_saved = on_saved

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
        if self.on_saved:
            self.on_saved(Path(path))


class _Movable(ModelCheckpoint):
    """Lightning's callback, which otherwise forgets its best score in another folder."""

    @property
    def state_key(self) -> str:
        """That of its base, by which earlier checkpoints have it."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with the paths as they are now."""
        folder = Path(str(self.dirpath))

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        super().load_state_dict(
            {
                **state_dict,
                **{name: here(state_dict[name]) for name in names},
                "dirpath": self.dirpath,
                "best_k_models": {
                    here(path): score for path, score in state_dict["best_k_models"].items()
                },
            }
        )


def best_checkpoint(folder: Path, *, is_validated: bool) -> ModelCheckpoint:
    """The callback that keeps the best epoch; without validation the last one."""
    return _Movable(
        folder, Path(BEST).stem, monitor=MONITOR if is_validated else None, mode="max",
        enable_version_counter=False,
    )  # fmt: skip


def last_checkpoint(folder: Path) -> ModelCheckpoint:
    """The callback that keeps the last epoch; it must run after `best_checkpoint`.

    It stores the state of that one. Lightning's own `save_last` follows a new best only.
    """
    return _Movable(folder, Path(LAST).stem, enable_version_counter=False)


def keep_whole(folder: Path) -> bool:
    """Whether a run can go on from the folder: both checkpoints are there and not damaged.

    If not, what is there is removed: one of them may not be taken for a pair with a new one.
    """
    names = LAST, BEST
    if all(is_whole(folder / name) for name in names):
        return True
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return False


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is as it was written: PyTorch's own reader checks no CRC."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (FileNotFoundError, zipfile.BadZipFile, zlib.error, *_DAMAGE):
        return False
