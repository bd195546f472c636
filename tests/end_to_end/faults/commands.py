"""The commands as processes that can be killed: of a new interpreter, or forked from a warm one."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PART_USERS = 64  # so that few users make many parts
BATCH_ROWS = 300  # so that few rows make many batches
SORT_MEMORY = {"ingest": 25_000_000, "prepare": 10_000_000}  # bytes, too few for 200,000 rows
TIMEOUT = 300.0  # seconds, after which a command hangs
_PROGRESS = re.compile(r"[a-z\d, ]+: (started|ended|[\d,.]+[ %].*)")


def fearec(arguments: list[str] | None = None) -> None:
    """The command `fearec`."""
    from flows.cli.main import app

    app(arguments)


def fearec_in_batches(arguments: list[str] | None = None) -> None:
    """The command `fearec`, with small batches of log files."""
    from pipeline.data import ingest_batches

    ingest_batches.BATCH_ROWS = BATCH_ROWS
    fearec(arguments)


def fearec_merging(arguments: list[str] | None = None) -> None:
    """The command `fearec`, which fails where it would prepare everything from the beginning."""
    from pipeline.data import prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_write_all", None)
        fearec(arguments)


def fearec_spilling(arguments: list[str] | None = None) -> None:
    """The command `fearec`, with so little memory that its sorts and joins write to the disk."""
    from pipeline.storage.resources import ResourceSettings

    stage, *_ = arguments or sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResourceSettings, "memory_limit", SORT_MEMORY[stage])
        patch.setattr(ResourceSettings, "thread_limit", 1)
        fearec(arguments)


def fearec_score(arguments: list[str] | None = None) -> None:
    """The command `fearec-score`, with small parts."""
    from pipeline.scoring import scorer
    from pipeline.scoring.cli import app

    scorer.PART_USERS = PART_USERS
    app(arguments)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: The exit code, negative for a signal; None where it had to be killed after `TIMEOUT`.
        err: Its standard error.
        seconds: How long it ran.
    """

    code: int | None
    err: str
    seconds: float

    @property
    def is_refusal(self) -> bool:
        """Whether it ended with an error's one line, after lines of progress, and its exit code."""
        *before, last = self.err.splitlines() or [""]
        clean = last.startswith("error: ") and all(map(_PROGRESS.fullmatch, before))
        return self.code in (1, 2) and clean

    @property
    def error(self) -> str:
        """The last line of the standard error."""
        return next(reversed(self.err.splitlines()), "")

    def __str__(self) -> str:
        lines = self.err.strip().splitlines()
        tail = " / ".join(lines[-3:])[:400]
        code = "no end" if self.code is None else f"exit {self.code}"
        return f"{code}, {len(lines)} lines: {tail}"


@dataclass(frozen=True)
class Running:
    """A command at work."""

    process: "subprocess.Popen[bytes] | BaseProcess"
    err: Path
    begun: float

    def code(self, seconds: float) -> int | None:
        """Wait for its end; None if it has none within some seconds."""
        if isinstance(self.process, BaseProcess):
            self.process.join(seconds)
            return self.process.exitcode
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        assert self.code(TIMEOUT) is not None

    def end(self) -> Ended:
        """Wait for its end, or kill it when it hangs."""
        code = self.code(TIMEOUT)
        seconds = time.monotonic() - self.begun
        if code is None:
            self.kill()
        return Ended(code, self.err.read_text(errors="replace"), seconds)


def start(
    command: Callable[[list[str]], None], arguments: list[str], output: Path, *, fresh: bool
) -> Running:
    """Start a command.

    Args:
        command: `fearec`, `fearec_score` or another function of a module.
        arguments: Of the command.
        output: Where its standard output and error go; also its working folder.
        fresh: Whether in a new interpreter, as people do; otherwise forked from a warm one.
    """
    output.mkdir(exist_ok=True)
    server = None if fresh else _fork_server()  # which takes seconds to start
    names = [output / f"{time.monotonic_ns()}.{stream}" for stream in ("out", "err")]
    begun = time.monotonic()
    process: subprocess.Popen[bytes] | BaseProcess
    if server is None:
        code = f"from {command.__module__} import {command.__name__} as run; run()"
        with names[0].open("wb") as out, names[1].open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                cwd=output,
                env=os.environ | {"PYTHONPATH": _python_path()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
    else:
        process = server.Process(target=_forked, args=(command, arguments, output, *names))
        process.start()
    return Running(process, names[1], begun)


def _forked(
    command: Callable[[list[str]], None], arguments: list[str], folder: Path, out: Path, err: Path
) -> None:
    os.chdir(folder)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    command(arguments)


@cache
def _fork_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.end_to_end.faults.preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _python_path())
        patch.setenv("OMP_NUM_THREADS", "1")  # threads do not survive the fork
        context.Process(target=int).start()
    return context


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
