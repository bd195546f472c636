"""The output folder of an import: it appears complete, at the end, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ConfigError, StorageError, one_line, raised_as
from pipeline.storage.folders import is_uri
from pipeline.storage.locks import exclusive_lock


def check_output(out: Path) -> None:
    """Check that the logs can be written to a folder: a local one, new or empty.

    Raises:
        ConfigError: they cannot.
        OSError: the path cannot be read.
    """
    if is_uri(str(out)):
        raise ConfigError(
            "the logs are written to a local folder only",
            str(out),
            expected="a path",
            remedy="Name a folder with --out, and copy it to the store afterwards.",
        )
    if not out.exists():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise ConfigError(
            "the output is there already",
            str(out),
            expected="a new or empty folder",
            remedy="Name another folder with --out, or remove this one.",
        )
    if out.samefile(os.curdir):  # replacing it would leave the user's shell in a removed folder
        raise _irreplaceable(out, "the current folder")


@contextmanager
def temporary_folders(out: Path) -> Iterator[tuple[Path, Path]]:
    """Make two folders, for scratch files and for the logs, hidden beside the output folder.

    They are removed at the end, and so are those that a killed import left.

    Raises:
        ConfigError: the output folder is there and cannot be replaced.
        BusyError: another import writes to the same folder.
        StorageError: the disk is full or not writable.
    """
    folder = out.with_name(f".{out.name}.importing")
    parts = folder / "scratch", folder / "logs"
    with (
        raised_as(
            StorageError,
            (OSError, pa.ArrowException),
            "cannot be written",
            str(out),
            remedy="Free some space or check the permissions.",
            name_file=True,
        ),
        exclusive_lock(folder / ".lock", "another import is at work on this", out),
    ):
        try:
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
            if out.exists():
                _check_movable(out, folder / "moved")
            yield parts
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def move_logs(logs: Path, out: Path) -> None:
    """Move the finished logs to the output folder, replacing an empty one."""
    os.sync()
    if out.exists():
        out.rmdir()
    logs.rename(out)


def _check_movable(out: Path, elsewhere: Path) -> None:
    """Move a folder and back, before the work: only the system knows what is a mount point."""
    try:
        out.rename(elsewhere).rename(out)
    except OSError as error:
        raise _irreplaceable(out, one_line(error)) from None


def _irreplaceable(out: Path, found: str) -> ConfigError:
    return ConfigError(
        "the output cannot be replaced by the folder of logs",
        str(out),
        expected="a new folder, or an empty one that is neither a mount point nor the current one",
        found=found,
        remedy="Name a new folder in it with --out.",
    )
