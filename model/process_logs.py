"""The log records of processes that this one starts, as if it had logged them itself."""

import logging
import logging.handlers
import multiprocessing
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

_LOGGERS = ("model", "pipeline")
_LONGEST = 2000  # characters of a message: longer writes to a pipe may mix with other processes'


class ProcessLogs:
    """Carries log records from other processes: hand it to them, and use it as a context here.

    It needs no lock, so a process that is killed is in nobody's way.
    """

    def __init__(self) -> None:
        self.level = logging.getLogger(_LOGGERS[0]).getEffectiveLevel()
        self._receiver, self._sender = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"level": self.level, "_sender": self._sender}

    def connect(self) -> None:
        """Send the records of this process, one of the others, from now on."""
        forward_records(self._sender.send, self.level)

    def __enter__(self) -> "ProcessLogs":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sender.close()  # the other ends are the processes', which end before or soon
        self._thread.join(timeout=5)

    def _receive(self) -> None:
        try:
            while True:
                handle_record(self._receiver.recv())
        except (EOFError, OSError):  # every sender has ended
            self._receiver.close()


def forward_records(send: Callable[[logging.LogRecord], Any], level: int) -> None:
    """Send the records of this process to another one, from now on."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [_Sender(send)]
        logger.propagate = False
        logger.setLevel(level)


def handle_record(record: logging.LogRecord) -> None:
    """Log a record of another process here."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class _Sender(logging.handlers.QueueHandler):
    def __init__(self, send: Callable[[logging.LogRecord], Any]) -> None:
        super().__init__(send)  # type: ignore[arg-type]

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record, whose message `prepare` has formatted."""
        record.msg = record.message = record.msg[:_LONGEST]
        self.queue(record)  # type: ignore[operator]
