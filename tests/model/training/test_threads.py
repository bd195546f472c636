"""The threads of PyTorch: how many, and how they wait for each other."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from model.training.processes import SpawnedProcesses
from model.training.threads import set_threads


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("requested", "preset", "threads"),
    [
        (3, "2", 3),
        ("auto", "2", 2),
        ("auto", "4,2", 4),
        ("auto", None, 5),
        ("auto", "many", 5),  # as OpenMP does
        ("auto", "0", 5),
    ],
)
def test_auto_is_what_openmp_is_told_or_the_cores(
    requested: object, preset: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.cores.usable_cores", lambda: 5)
    if preset is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", preset)
    assert set_threads(requested) == torch.get_num_threads() == threads  # type: ignore[arg-type]


def test_processes_of_one_training_share_its_threads() -> None:
    strategy = SpawnedProcesses(5)
    strategy.parallel_devices = [torch.device("cpu")] * 2
    strategy.connect(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    assert torch.get_num_threads() == 2


WATCHED = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.exit()

sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    "module",
    [
        "flows.cli.main, pipeline.evaluation.evaluate",  # the command first
        "flows.cli.main, pipeline.tuning.tune",
        "flows.cli.main, pipeline.training.export",
        "model.network.fearec",
    ],
)
def test_threads_wait_without_spinning_for_long(module: str) -> None:
    unset = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    env = {name: value for name, value in os.environ.items() if name not in unset}

    def spins(**more: str) -> str:
        command = [sys.executable, "-c", f"{WATCHED}\nimport {module}"]
        done = subprocess.run(
            command, env={**env, **more}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert spins() == "3000"
    if module.startswith("model"):
        assert spins(GOMP_SPINCOUNT="7") == "7"
        assert spins(OMP_WAIT_POLICY="active") == "None"
