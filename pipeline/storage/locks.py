"""A lock file that one process at a time can hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import BusyError, FearecError


@contextmanager
def exclusive_lock(
    lock: Path,
    busy: str,
    where: Path,
    *,
    wait: float = 0,
    error: type[FearecError] = BusyError,
) -> Iterator[None]:
    """Hold a lock; the operating system releases it however this process ends.

    Args:
        lock: The lock file; its folder is created.
        busy: The error's text where another process holds the lock.
        where: What the lock protects, for the error.
        wait: Seconds to wait for another process that holds it.
        error: What is raised then.

    Raises:
        FearecError: of that class, another process holds the lock.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=wait)
    try:
        held.acquire()
    except Timeout:
        raise error(busy, str(where), remedy="Wait for it to end, then run this again.") from None
    try:
        yield
    finally:
        held.release()
