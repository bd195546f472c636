"""Progress as plain lines: how often, what they say, and where they go."""

import logging
import subprocess
import sys

import pytest

from model import progress
from model.progress import ProgressLines


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_at_the_start_the_end_and_every_30_seconds(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with ProgressLines("scoring", "users") as lines:
        for second in range(100):
            clock.now = 100.0 + second
            lines(1000 * second, 100_000)
    assert caplog.messages == [
        "scoring: started",
        "scoring: 30,000 of 100,000 users, 30%, 1,000 users/s, 0:01:10 left",
        "scoring: 60,000 of 100,000 users, 60%, 1,000 users/s, 0:00:40 left",
        "scoring: 90,000 of 100,000 users, 90%, 1,000 users/s, 0:00:10 left",
        "scoring: 99,000 of 100,000 users, 99%, 1,000 users/s, 0:00:01 left",
    ]


def test_a_resumed_work_counts_its_rate_from_where_it_began(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with ProgressLines("scoring", "users") as lines:
        lines(1_000, None)
        clock.now += 60
        lines(1_030, None, lambda: "all is well")
        clock.now += 1
    assert caplog.messages[1:] == [
        "scoring: 1,030 users, 0.50 users/s, all is well",
        "scoring: 1,030 users, 0.49 users/s, all is well",
    ]


def test_without_a_unit_only_the_share_is_shown(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with ProgressLines("reading") as lines:
        lines(0, 8_000)
        clock.now += 31
        lines(2_000, 8_000)
        clock.now += 1
        lines(8_000, 8_000)
    with ProgressLines("writing") as lines:
        lines(0, None)
    assert caplog.messages[1:] == [
        "reading: 25%, 0:01:33 left",
        "reading: 100%",
        "writing: started",
        "writing: ended",
    ]


def test_work_that_fails_has_no_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        with ProgressLines("scoring") as lines:
            lines(0, None)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert caplog.messages == ["scoring: started"]


def test_work_that_is_refused_before_it_begins_says_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyError), ProgressLines("scoring"):
        raise KeyError
    assert caplog.messages == []


def test_text_is_only_asked_for_where_it_is_shown(clock: Clock) -> None:
    asked: list[int] = []
    with ProgressLines("training", "batches") as lines:
        for step in range(90):
            clock.now += 1
            lines(step, 90, lambda step=step: asked.append(step) or "")  # type: ignore[misc]
    assert asked == [29, 59, 89, 89]


@pytest.mark.parametrize("handled", ["", "model", "root"])
def test_lines_are_printed_where_no_log_takes_them(handled: str) -> None:
    code = """
import logging, sys
from model.progress import ProgressLines
if name := sys.argv[1]:
    logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
with ProgressLines("scoring") as lines:
    lines(0, None)
"""
    command = [sys.executable, "-c", code, handled]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = "scoring: started\nscoring: ended\n"
    assert (done.stdout, done.stderr) == ((lines, "") if handled else ("", lines))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_of_the_log_ends_no_work() -> None:
    code = """
from model.progress import ProgressLines
with ProgressLines("scoring") as lines:
    lines(0, None)
    print("scored")
"""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.stdout == "scored\n"


def test_lines_are_information(caplog: pytest.LogCaptureFixture) -> None:
    with ProgressLines("scoring") as lines:
        lines(0, None)
    assert {record.levelno for record in caplog.records} == {logging.INFO}
