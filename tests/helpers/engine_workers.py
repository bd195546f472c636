"""Workers for the tests of engines, in a module that other processes can import."""

import os
from collections.abc import Callable
from functools import partial


def _describe(index: int, part: str, progress: Callable[[int], None]) -> tuple[int, int, str]:
    progress(len(part))
    if part == "error":
        raise ValueError("a bad part")
    if part == "exit":
        os._exit(1)
    return index, os.getpid(), part.upper()


def make_worker(index: int) -> Callable[[str, Callable[[int], None]], tuple[int, int, str]]:
    return partial(_describe, index)


def make_no_worker(index: int) -> Callable[[str, Callable[[int], None]], None]:
    raise ValueError(f"no device {index}")
