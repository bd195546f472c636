"""Calling a function in a process of its own, which ends when this process ends."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

from model.process_logs import ProcessLogs

Result = TypeVar("Result")


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a module's function in a new process; arguments, result and exceptions must pickle.

    Ctrl-C, which a terminal sends to all processes, is for this one alone.

    Raises:
        BrokenProcessPool: the system killed the process.
        Exception: whatever the function raised.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads
    with (
        ProcessLogs() as logs,
        ProcessPoolExecutor(1, spawn, initializer=_start, initargs=(logs,)) as process,
    ):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new ones inherit it
        try:
            called = process.submit(function, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return called.result()


def end_with_parent() -> None:
    """End this pool process when its parent ends; otherwise it would wait for work for ever."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(logs: ProcessLogs) -> None:
    end_with_parent()
    logs.connect()
    # Skip DuckDB's and PyTorch's own clean-up at exit, which is slow and prints warnings.
    atexit.register(os._exit, 0)
