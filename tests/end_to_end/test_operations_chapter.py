"""The operations chapter of flows/README.md, pasted word for word into a terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from tests.helpers.operator import Operator, copied_repository, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NIGHTLY = "nightly-retrain-and-score/nightly"
# All that a night of the sample needs, in a second.
TINY = {"FEAREC_TRAIN__EPOCHS": "1", "FEAREC_MODEL__HIDDEN_SIZE": "8", "OMP_NUM_THREADS": "1"}


class Terminal:
    """Bash on a terminal of its own, into which lines are pasted all at once."""

    def __init__(self, operator: Operator) -> None:
        environment = {
            name: value
            for name, value in (operator.environment | TINY).items()
            if name != "PREFECT_API_URL"  # the chapter's own lines have to set it
        }
        del environment["PREFECT_SERVER_ANALYTICS_ENABLED"]
        environment["PREFECT_SERVER_API_PORT"] = str(operator.port)
        self.screen, inside = pty.openpty()
        self.shell = subprocess.Popen(
            ["bash", "--norc"], cwd=operator.folder, env=environment, start_new_session=True,
            stdin=inside, stdout=inside, stderr=inside,
        )  # fmt: skip
        os.close(inside)
        self.seen = ""

    def paste(self, lines: str) -> None:
        os.write(self.screen, lines.encode())

    def interrupt(self) -> None:
        os.write(self.screen, b"\x03")

    def wait_for(self, pattern: str, seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.screen], [], [], 1)[0]:
                self.seen += os.read(self.screen, 65536).decode(errors="replace")

    def close(self) -> None:
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.wait(30)
        os.close(self.screen)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    folder = copied_repository(tmp_path / "clone")
    (folder / ".venv").symlink_to(sys.prefix)
    operator = Operator(folder, tmp_path / "home", free_port())
    try:
        yield operator
    finally:
        operator.run("prefect", "server", "stop")
        operator.end()


@pytest.fixture
def terminal(operator: Operator) -> Iterator[Callable[[], Terminal]]:
    opened: list[Terminal] = []

    def open_terminal() -> Terminal:
        opened.append(Terminal(operator))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


def block(operator: Operator, with_line: str) -> str:
    """The lines of the block of shell commands that has such a line, for the server's port."""
    text = (operator.folder / "flows/README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    (found,) = (each for each in blocks if with_line in each)
    return found.replace("4200", str(operator.port))


def check_screen(terminal: Terminal) -> None:
    assert "Traceback" not in terminal.seen
    assert "temporary server" not in terminal.seen
    assert "[y/n]" not in terminal.seen
    assert terminal.seen.count("collects anonymous usage data") <= 1  # before it is switched off


def test_a_server_a_pool_and_a_worker(operator: Operator, terminal: Callable[[], Terminal]) -> None:
    shell = terminal()
    shell.paste(block(operator, "worker start"))
    shell.wait_for("started!")
    check_screen(shell)
    (run,) = operator.schedule(NIGHTLY, date(2026, 6, 30), date(2026, 6, 30))
    ended = operator.ended(run)
    assert ended.state.name == "Completed", operator.log_of(run)
    assert ended.name == "night 2026-06-29: first"
    shell.interrupt()
    shell.wait_for("stopped!", 60)
    check_screen(shell)


def test_one_machine_without_a_pool_whose_schedule_outlives_it(
    operator: Operator, terminal: Callable[[], Terminal]
) -> None:
    shell = terminal()
    lines = block(operator, "fearec serve")
    shell.paste(lines)
    shell.wait_for("being served")
    check_screen(shell)
    shell.interrupt()
    shell.paste("\necho ended=$?\n")
    shell.wait_for(r"ended=\d", 60)
    with operator.client() as client:
        (schedule,) = client.read_deployment_by_name(NIGHTLY).schedules
    assert schedule.active
    (run,) = operator.schedule(NIGHTLY, date(2026, 6, 30), date(2026, 6, 30))
    assert operator.flow_run(run).state.is_scheduled()
    again = terminal()
    again.paste(lines.strip().splitlines()[-1] + "\n")
    ended = operator.ended(run)
    assert ended.state.name == "Completed", operator.log_of(run)
    check_screen(again)
