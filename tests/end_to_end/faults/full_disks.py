"""Full disks: a small file system that has no room for all that a command writes."""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.faults.kills import compared, mixture_of
from tests.end_to_end.faults.tables import PAGE, size_of, tables_of
from tests.end_to_end.faults.verdicts import Verdict, wrong
from tests.end_to_end.faults.world import Undisturbed, World

# Where a write fails, a thread of delta-rs may panic beside that, and Rust itself prints it.
_PANIC = re.compile(
    r"\nthread '[\w-]+' \(\d+\) panicked at \S*object_store\S*\nAlready shut down\n"
    r"(stack backtrace:\n)?note: .*\n"
)
_ROOM = "64m"


def run_out_of_room(
    world: World, undisturbed: Undisturbed, name: str, chance: random.Random
) -> Verdict:
    """Run a command on a disk that fills up, then again when it has room, and compare.

    Args:
        world: Where.
        undisturbed: What is run, and what it should lead to.
        name: The folder of `place` that is the disk: `warehouse` or `work`.
        chance: How much of what the command writes there finds room.
    """
    world.restore(undisturbed.before or None)
    folder, other = (world.place / each for each in (name, _other(name)))
    used = size_of(folder)
    left = undisturbed.sizes[name]
    with _disk(folder, int(used + chance.random() * max(PAGE, left - used))):
        ended = world.run(undisturbed.command, undisturbed.arguments, fresh=world.fresh)
        ended = replace(ended, err=_PANIC.sub("", ended.err))
        if ended.code == 0:
            return compared(world, undisturbed, ended)
        names_it = str(folder) in ended.error and str(other) not in ended.error
        if not (ended.is_refusal and ended.code == 1 and names_it):
            return wrong(f"{folder.name} is full: {ended}")
        if mixture := mixture_of(tables_of(world.warehouse), undisturbed):
            return wrong(f"{ended}: {mixture}")
        _mount("-o", f"remount,size={_ROOM}", str(folder))
        again = world.run(undisturbed.command, undisturbed.arguments)
        # What the first one committed, it counted too.
        verdict = compared(world, undisturbed, again, counted=False)
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


def _other(name: str) -> str:
    return {"warehouse": "work", "work": "warehouse"}[name]


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
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
