"""One process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import BusyError


@contextmanager
def exclusive_lock(lock: Path, busy: str, where: Path) -> Iterator[None]:
    """Hold a lock, which the system frees whatever way this process ends.

    Args:
        lock: The file that stands for it; its folder is made.
        busy: What is wrong where another process holds it.
        where: What is locked.

    Raises:
        BusyError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise BusyError(
            busy, str(where), remedy="Wait for it to end, then run this again."
        ) from None
    try:
        yield
    finally:
        held.release()
