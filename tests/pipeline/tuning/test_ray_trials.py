"""Trials on a Ray cluster of two nodes on this machine: the same as here, through losses too."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main as cli
from tests.helpers.ray_workers import ended_within, until, workers
from tests.helpers.searches import DAY, rows, run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

# Seconds for a trial.
LONG = ["train.epochs=60", "train.stopping_step=60", "tune.prune=false"]


@pytest.fixture
def on_ray(cluster: Any) -> list[str]:
    """The settings of a search on the cluster."""
    return ["engine.kind=ray", f"engine.address={cluster.address}", "train.threads=1"]


def begun(config: Path) -> bool:
    return bool(list((config.parent / "tune").glob("study.db")))


def search_process(config: Path, overrides: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli.main", "tune", "--config", str(config)]
    command += ["--date", str(DAY), *(flag for each in overrides for flag in ("--set", each))]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_trials_are_those_of_a_search_here(config: Path, on_ray: list[str]) -> None:
    (config.parent / "hyper.test").write_text(
        "learning_rate choice [0.001,0.03,1e38]\ntopk_factor choice [1,2]\n"
    )
    there = run(config, *on_ray)
    here = run(config, "train.threads=1", f"tune.out={config.parent}/here")
    assert (there.n_complete, there.n_failed) == (4, 2)
    columns = ("number", "state", "ndcg_at_10", "best_epoch", "epochs", "error", "learning_rate")
    found, expected = (
        [[str(row[name]) for name in columns] for row in rows(each)] for each in (there, here)
    )
    assert found == [[text.replace("/here/", "/tune/") for text in row] for row in expected]
    assert (there.best, there.test) == (here.best, here.test)
    assert run(config, *on_ray) == there  # nothing is trained again


def test_hopeless_trials_are_pruned_as_they_are_here(config: Path, on_ray: list[str]) -> None:
    (config.parent / "hyper.test").write_text(
        "learning_rate choice [0.03,1e-9]\nseed choice [1,2,3,4,5,6]\n"
    )
    settings = ["train.epochs=4", "train.stopping_step=1", "train.threads=1"]
    there = run(config, *on_ray, *settings, "engine.max_workers=1")
    here = run(config, *settings, f"tune.out={config.parent}/here")
    ends = [[(row["state"], row["epochs"]) for row in rows(each)] for each in (there, here)]
    assert ends[0] == ends[1]
    assert there.n_pruned > 0


def test_a_lost_worker_costs_no_trial(config: Path, cluster: Any, on_ray: list[str]) -> None:
    (config.parent / "hyper.test").write_text("topk_factor choice [1,2,3]\n")
    settings = [*on_ray, *LONG]
    process = search_process(config, settings)
    until(lambda: begun(config) and workers(cluster))
    os.kill(min(workers(cluster)), signal.SIGKILL)
    _, messages = process.communicate(timeout=240)
    assert process.returncode == 0, messages
    tuned = run(config, *settings)
    assert tuned.n_complete == 3
    assert [row["epochs"] for row in rows(tuned)] == [60] * 3


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_search_that_ends_leaves_no_worker_and_goes_on(
    config: Path, cluster: Any, on_ray: list[str], sent: signal.Signals
) -> None:
    (config.parent / "hyper.test").write_text("topk_factor choice [1,2]\n")
    settings = [*on_ray, *LONG]
    process = search_process(config, settings)
    until(lambda: begun(config) and len(workers(cluster)) == 2)
    there = workers(cluster)
    process.send_signal(sent)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent), messages
    assert ended_within(there, 20)
    tuned = run(config, *settings)
    assert [row["epochs"] for row in rows(tuned)] == [60, 60]
