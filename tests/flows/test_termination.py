"""SIGTERM, as of a cancelled flow run or a lost spot machine, while a model is trained."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training.checkpoints import is_whole
from tests.helpers.tiny_night import write_logs, write_settings

ROOT = Path(__file__).parents[2]
LONG = ["--set", "train.epochs=100000", "--set", "train.stopping_step=100000"]
COMMANDS = {
    "command": ["-m", "flows.cli.main", "nightly"],
    "flow": ["-m", "flows.nightly"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_logs(tmp_path / "logs")
    write_settings(tmp_path)
    return tmp_path


def start(folder: Path, kind: str) -> "subprocess.Popen[str]":
    env = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(ROOT)}
    config = ["--config", str(folder / "fearec.toml"), "--date", "2026-07-01"]
    with (folder / "stderr").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, *COMMANDS[kind], *config, *LONG],
            cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=stderr, text=True,
        )  # fmt: skip


def checkpoint(folder: Path) -> Path | None:
    return next(iter(folder.glob("work/*/train/*/*/last.ckpt")), None)


def epoch(path: Path | None) -> int:
    """The last epoch that a checkpoint holds, from 0; -1 without one."""
    loaded: dict[str, Any] = torch.load(path, weights_only=True) if path else {"epoch": -1}
    return loaded["epoch"]


def terminate_in_training(process: "subprocess.Popen[str]", folder: Path) -> float:
    """End it once it has trained some epochs more; returns the seconds that its end took."""
    done = epoch(checkpoint(folder))
    deadline = time.monotonic() + 200
    while epoch(checkpoint(folder)) < done + 3:
        assert process.poll() is None, (folder / "stderr").read_text()
        assert time.monotonic() < deadline, (folder / "stderr").read_text()
        time.sleep(0.1)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    return time.monotonic() - sent


@pytest.mark.parametrize("kind", ["command", pytest.param("flow", marks=pytest.mark.slow)])
def test_sigterm_ends_training_at_a_point_from_which_it_resumes(folder: Path, kind: str) -> None:
    process = start(folder, kind)
    assert terminate_in_training(process, folder) < 20
    assert process.returncode == 128 + signal.SIGTERM
    said = (folder / "stderr").read_text()
    assert said.endswith("terminated; run the same command to continue\n")
    assert "Traceback" not in said
    last = checkpoint(folder)
    assert last is not None
    assert is_whole(last)
    assert is_whole(last.with_name("best.ckpt"))
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob(".scratch"))
    assert not (folder / "warehouse/recommendations").exists()
    done = epoch(last)

    if kind == "flow":  # whose log has the epochs; what resumes is the same
        assert terminate_in_training(start(folder, kind), folder) < 20
        epochs = re.findall(r"epoch (\d+) of 100000", (folder / "stderr").read_text())
        assert int(epochs[0]) == done + 2
