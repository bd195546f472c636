"""Workers for the tests on a Ray cluster; each notes its process in a folder while it is at work.

python -m tests.helpers.ray_workers FOLDER ARGUMENT...     # fearec-score with slow workers
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.scoring.scorer import open_scorer

_ACTORS = (b"ray::Place", b"ray::_Member")  # those that hold a worker
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Noting:
    """Upper-cases a part, slowly; parts that name a misfortune have it.

    Attributes:
        folder: Gets a file per process and part, `PID-PART`.
        seconds: Per part.
    """

    folder: Path
    seconds: float

    def __call__(self, part: str, progress: Progress) -> tuple[int, str]:
        (self.folder / f"{os.getpid()}-{part}").touch()
        first = len(list(self.folder.glob(f"*-{part}"))) == 1
        if part == "error":
            raise ValueError("a bad part")
        if part == "exit" or (part == "exit-once" and first):
            os._exit(1)
        if part == "memory" or (part == "memory-once" and first):
            _run_out_of_memory()
        time.sleep(self.seconds)
        return os.getpid(), part.upper()


@dataclass(frozen=True)
class MakeNoting:
    folder: Path
    seconds: float = 0.0

    def __call__(self, index: int) -> Noting:
        assert index == 0
        return Noting(self.folder, self.seconds)


def make_no_worker(index: int) -> Noting:
    raise ValueError("no device")


def exit_instead(index: int) -> Noting:
    os._exit(1)


def pids(folder: Path) -> set[int]:
    """The processes of the workers that have begun a part."""
    return {int(path.name.partition("-")[0]) for path in folder.iterdir()}


def running(processes: set[int]) -> set[int]:
    """Those that still run; one that nobody has waited for yet has ended."""
    return {each for each in processes if _stat(each)[:1] not in ([], ["Z"], ["X"])}


def parent(process: int) -> int:
    return int(_stat(process)[1])


def workers(cluster: Any) -> set[int]:
    """The processes of a cluster on this machine that hold a worker."""
    raylets = {
        str(node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()
    }
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        if (_stat(process)[1:2] or [""])[0] in raylets:
            with suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(_ACTORS):
                    found.add(process)
    return found


def ended_within(processes: set[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not running(processes)


def until(happened: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _stat(process: int) -> list[str]:
    """State, parent and so on; nothing where it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _run_out_of_memory() -> None:
    """Allocate beyond a limit of this process, as in a container without more memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
    try:
        np.ones(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


@dataclass(frozen=True)
class _SlowScorer:
    scorer: Any
    folder: Path

    def __call__(self, part: Any, progress: Progress) -> Any:
        (self.folder / f"{os.getpid()}-{part.user_id[0]}").touch()
        time.sleep(1)
        return self.scorer(part, progress)


@dataclass(frozen=True)
class OpenSlowScorer:
    """Takes the place of `open_scorer`."""

    folder: Path

    def __call__(self, bundle: Bundle, settings: ScoreSettings, **options: Any) -> Any:
        return _SlowScorer(open_scorer(bundle, settings, **options), self.folder)


if __name__ == "__main__":
    from pipeline.scoring import cli, run, scorer
    from tests.helpers.ray_workers import OpenSlowScorer as Importable  # not of __main__

    folder = Path(sys.argv.pop(1))
    scorer.PART_USERS = 10
    run.open_scorer = Importable(folder)
    cli.command()
