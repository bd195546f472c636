"""A function called in a process of its own, which ends when this one does, in whatever way."""

import atexit
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module and wait for its result; all of it must pickle.

    Raises:
        BrokenProcessPool: the system killed the process.
        Exception: whatever the function raised.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads
    with ProcessPoolExecutor(1, spawn, initializer=_begin) as process:
        return process.submit(function, *arguments).result()


def end_with_parent() -> None:
    """Make this process of a pool end when its parent does; by itself it would wait for ever."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin() -> None:
    end_with_parent()
    # What DuckDB and PyTorch make of a process's end is slow and noisy.
    atexit.register(os._exit, 0)
