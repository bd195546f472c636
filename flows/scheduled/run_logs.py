"""The log of a flow run: what the stages log is in it, and an error of one line is one line."""

import atexit
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from prefect.context import TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from model.errors import FearecError


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the traceback of an error that is one line by itself."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FearecError):
            record.msg, record.args = f"Failed: {error}", ()
            record.exc_info = None
        return True


class _FlowRunHandler(APILogHandler):
    """Prefect's handler, which drops what threads and processes without a run's context log."""

    def __init__(self, flow_run_id: str) -> None:
        super().__init__()
        self.flow_run_id = flow_run_id

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record to the log of the flow run, and of the task run where it has one."""
        task = TaskRunContext.get()
        record.flow_run_id = self.flow_run_id
        record.task_run_id = task.task_run.id if task else None
        super().emit(record)


@contextmanager
def routed_logs() -> Iterator[None]:
    """Send what `model` and `pipeline` log, from INFO on, to the log of the flow run at work.

    The console shows it too, by Prefect's own handler.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        _filter_once(logging.getLogger(name))
    _drop_leak_reports()
    handler = _FlowRunHandler(flow_run.id)
    loggers = [logging.getLogger(name) for name in ("model", "pipeline")]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    for logger in loggers:
        # In place of the handler of a flow run that this one is part of.
        logger.handlers = [*(each for each in logger.handlers if not _is_ours(each)), handler]
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


def _is_ours(handler: logging.Handler) -> bool:
    return isinstance(handler, APILogHandler)


def _filter_once(logger: logging.Logger) -> None:
    if not any(isinstance(each, _OneLine) for each in logger.filters):
        logger.addFilter(_OneLine())


@cache
def _drop_leak_reports() -> None:
    """Close the standard error when Python ends.

    Prefect's threads outlive the interpreter and hold the flow run, and with it DuckDB's module,
    which then prints a hundred lines on leaks.
    """

    def close() -> None:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    atexit.register(close)
