"""Prefect's logs without the traceback of a `FearecError`, whose one line says all."""

import logging

from model.errors import FearecError


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the traceback of an error that is one line by itself."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FearecError):
            record.msg, record.args = f"Failed: {error}", ()
            record.exc_info = None
        return True


def log_errors_in_one_line() -> None:
    """Let the loggers of flow and task runs write a `FearecError` as one line."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, _OneLine) for each in logger.filters):
            logger.addFilter(_OneLine())
