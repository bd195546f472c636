"""Full disks: a small file system that has no room for all that a command writes."""

import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.faults.kills import compared, mixture_of
from tests.end_to_end.faults.tables import PAGE, size_of, tables_of
from tests.end_to_end.faults.verdicts import Verdict, wrong
from tests.end_to_end.faults.world import DISKS, Undisturbed, World

# Where a write fails, a thread of delta-rs panics beside that, and Rust itself prints it: its
# object_store 0.13 shuts the writer down twice (apache/arrow-rs-object-store#810).
_PANIC = re.compile(
    r"\nthread '[\w-]+' \(\d+\) panicked at \S*object_store\S*\nAlready shut down\n"
    r"(stack backtrace:\n)?note: .*\n"
)
_ROOM = "256m"
_STRAGGLE = 10.0  # seconds; delta-rs and Arrow close files in threads, of this process too


def run_out_of_room(
    world: World, undisturbed: Undisturbed, name: str, chance: random.Random
) -> Verdict:
    """Run a command on a disk that fills up, then again when it has room, and compare.

    Args:
        world: Where.
        undisturbed: What is run, and what it should lead to.
        name: The folder of `place` that is the disk, one of `DISKS`.
        chance: How much of what the command writes there finds room.
    """
    world.restore(undisturbed.before or None)
    folder = world.place / name
    others = [world.place / each for each in DISKS if each != name]
    used = size_of(folder)
    left = undisturbed.sizes[name]
    with _disk(folder, int(used + chance.random() * max(PAGE, left - used))):
        ended = world.run(undisturbed.command, undisturbed.arguments, fresh=world.fresh)
        ended = replace(ended, err=_PANIC.sub("", ended.err))
        _mount("-o", f"remount,size={_ROOM}", str(folder))
        if ended.code == 0:
            return compared(world, undisturbed, ended)
        names_it = str(folder) in ended.error and not any(
            str(other) in ended.error for other in others
        )
        if not (ended.is_refusal and ended.code == 1 and names_it):
            return wrong(f"{folder.name} is full: {ended}")
        if mixture := mixture_of(tables_of(world.warehouse), undisturbed):
            return wrong(f"{ended}: {mixture}")
        again = world.run(undisturbed.command, undisturbed.arguments)
        verdict = compared(world, undisturbed, again)
        if verdict.outcome != "right":
            return wrong(f"{ended}; with room again: {verdict.why}")
    return Verdict("refused", ended.error)


def check_mounts(folder: Path) -> None:
    """Skip the test where no file system can be mounted."""
    try:
        with _disk(folder / "tried", PAGE):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted: {error}")


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[None]:
    """A folder as a disk of its own of some bytes, with the folder's files; removed afterwards."""
    kept = folder.with_name(f"{folder.name}-kept")
    if folder.exists():
        folder.rename(kept)
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={max(PAGE, size)}", "tmpfs", str(folder))
    try:
        if kept.exists():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            shutil.rmtree(kept)
        yield
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    """Unmount a disk, at the latest when nobody uses it any longer.

    Raises:
        RuntimeError: a process still uses it seconds after the commands have ended.
    """
    end = time.monotonic() + _STRAGGLE
    while subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode:
        if time.monotonic() > end:
            users = ", ".join(sorted(_users_of(folder)))
            subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
            raise RuntimeError(f"{folder} is still in use by {users}")
        time.sleep(0.05)


def _users_of(folder: Path) -> set[str]:
    """The processes, each with a file below a folder that it has open, mapped or works in."""
    found = set()
    for pattern in ("cwd", "fd/*", "map_files/*"):
        for link in Path("/proc").glob(f"[0-9]*/{pattern}"):
            with suppress(OSError):  # it has ended meanwhile
                if (file := link.readlink()).is_relative_to(folder):
                    command = (link.parents[-3] / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.add(f"{command.decode(errors='replace')[:80]!r} ({file})")
    return found


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
