"""Progress as plain lines, for logs: where the standard error is no terminal, no bar is drawn.

The lines are log records of level INFO. Where no other handler takes them, they go to the standard
error.
"""

import logging
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

_SECONDS_BETWEEN = 30.0

logger = logging.getLogger(__name__)


class _LastResort(logging.Handler):
    """Prints to the standard error what no handler of the loggers above takes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; an error of that, such as a full disk, is no reason to end the work."""
        try:
            if logger.parent is None or not logger.parent.hasHandlers():
                print(self.format(record), file=sys.stderr, flush=True)
        except OSError:
            pass


logger.setLevel(logging.INFO)
logger.addHandler(_LastResort())


def draws_bars() -> bool:
    """Whether progress is shown as bars: the standard error is a terminal."""
    return sys.stderr.isatty()


class ProgressLines:
    """Logs how far some work is: at the start, every 30 seconds at most, and at the end.

    The start is the first call, so that work that is refused before says nothing but why. As a
    context manager it logs the end only where no exception ended the work.

    Args:
        what: The work's name, such as scoring.
        unit: What is counted, such as users; without one only shares are shown.
    """

    def __init__(self, what: str, unit: str = "") -> None:
        self.what = what
        self.unit = unit
        self._first: tuple[float, int] | None = None  # time and count of the first call
        self._latest: tuple[int, int | None, Callable[[], str]] = (0, None, str)

    def __enter__(self) -> Self:
        self._due = time.monotonic() + _SECONDS_BETWEEN
        return self

    def __call__(self, done: int, total: int | None, more: Callable[[], str] = str) -> None:
        """Take the progress, and log it where a line is due.

        Args:
            done: The count so far.
            total: The count at the end, where that is known.
            more: Text for the line's end, asked for when a line is logged.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
            logger.info("%s: started", self.what)
        self._latest = done, total, more
        if now >= self._due:
            self._log(now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self._log(time.monotonic())

    def _log(self, now: float) -> None:
        self._due = now + _SECONDS_BETWEEN
        done, total, more = self._latest
        parts = []
        if self.unit:
            parts.append(f"{done:,}{f' of {total:,}' if total else ''} {self.unit}")
        if total:
            parts.append(f"{done / total:.0%}")
        begun, first = self._first or (now, 0)
        rate = (done - first) / (now - begun) if now > begun else 0
        if rate and self.unit:
            parts.append(f"{rate:,.{0 if rate >= 10 else 2}f} {self.unit}/s")
        if rate and total and done < total:
            parts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
        if text := more():
            parts.append(text)
        logger.info("%s: %s", self.what, ", ".join(parts) or "ended")
