"""What other processes log arrives here, and one that is killed is in nobody's way."""

import logging
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from model.process_logs import ProcessLogs
from pipeline.engines.own_process import in_own_process
from pipeline.engines.process_pool import ProcessPool


def speak(text: str) -> int:
    logging.getLogger("pipeline.somewhere").info("%s from %d", text, 1)
    logging.getLogger("model.elsewhere").debug("too quiet")
    return os.getpid()


def speak_and_die() -> None:
    logging.getLogger("pipeline.somewhere").warning("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def make_speaker(index: int) -> object:
    def work(part: str, progress: object) -> int:
        logging.getLogger("pipeline.somewhere").info("%s in %d", part, index)
        return index

    return work


def test_records_of_a_process_arrive_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    caplog.set_level(logging.INFO, "model")
    process = in_own_process(speak, "x" * 5000)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pipeline.somewhere", logging.INFO)
    assert record.process == process != os.getpid()
    assert record.getMessage() == "x" * 2000


def test_ctrl_c_is_for_the_parent_alone() -> None:
    blocked = in_own_process(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_the_parent_would_not_show_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pipeline")
    caplog.set_level(logging.WARNING, "model")
    in_own_process(speak, "hello")
    assert caplog.records == []


def test_every_process_of_a_pool_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    caplog.set_level(logging.INFO, "model")
    parts = [f"part {number}" for number in range(4)]
    list(ProcessPool(make_speaker, 2).results(iter(parts), lambda done: None))
    heard = sorted(record.getMessage().rpartition(" in ")[0] for record in caplog.records)
    assert heard == parts


def test_a_process_that_is_killed_is_heard_and_ends_the_listening(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = time.monotonic()
    with pytest.raises(BrokenProcessPool):
        in_own_process(speak_and_die)
    assert [record.getMessage() for record in caplog.records] == ["last words"]
    logs = ProcessLogs()
    with logs:
        pass  # no process at all
    assert time.monotonic() - started < 60
