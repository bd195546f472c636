"""Progress of commands: bars on a terminal, plain lines elsewhere."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from flows.console.progress import import_progress, search_progress

IMPORT = [sys.executable, "-m", "flows.cli.main", "import", "a.csv", "--format", "csv", "--json"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = "".join(f"{row % 9},{row % 7},{1_500_000_000 + row}\n" for row in range(100))
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\n" + rows)
    return tmp_path


def test_without_a_terminal_there_are_lines(source: Path) -> None:
    done = subprocess.run(
        [*IMPORT, "--out", "logs"], cwd=source, capture_output=True, text=True, check=True,
        env={**os.environ, "FORCE_COLOR": "1"},  # as of a build server, whose logs are no terminal
    )  # fmt: skip
    assert json.loads(done.stdout)["n_interactions"] == 100
    assert done.stderr.splitlines() == [
        "reading: started", "reading: 100%", "writing: started", "writing: 100%"
    ]  # fmt: skip


def test_on_a_terminal_there_is_a_bar(source: Path) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [*IMPORT, "--out", "logs"],
            cwd=source,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        out, _ = process.communicate(timeout=60)
        shown = terminal.read(1 << 16).decode()
    os.close(theirs)
    assert json.loads(out)["n_interactions"] == 100
    assert "reading" in shown
    assert "\x1b[" in shown
    assert "started" not in shown


def test_a_search_names_its_trials_and_the_best(caplog: pytest.LogCaptureFixture) -> None:
    with search_progress() as progress:
        progress(0, 4, None)
        progress(4, 4, 0.25)
    first, last = caplog.messages
    assert first == "search: started"
    assert last.startswith("search: 4 of 4 trials, 100%, ")
    assert last.endswith("best NDCG@10 0.2500")


def test_a_step_ends_before_the_next_begins(caplog: pytest.LogCaptureFixture) -> None:
    with import_progress() as progress:
        progress("reading", 1, 2)
        progress("reading", 2, 2)
        progress("writing", 1, 1)
    assert caplog.messages == [
        "reading: started", "reading: 100%", "writing: started", "writing: 100%"
    ]  # fmt: skip
