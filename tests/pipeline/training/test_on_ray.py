"""Training on a Ray cluster of two nodes on this machine: the same as here, through losses too."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli import main as cli
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, WEIGHTS
from pipeline.config.settings import load_settings
from pipeline.engines import ray_place
from pipeline.errors import ConfigError, DivergenceError
from pipeline.results import Trained
from pipeline.runner.nightly import run_stage
from pipeline.runner.stages import stage_named
from tests.helpers.ray_workers import ended_within, parent, until, workers
from tests.helpers.tiny_night import write_logs, write_settings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

DAY = date(2026, 7, 1)
QUICK = ["train.train_batch_size=64", "train.stopping_step=99", "model.topk_factor=1"]
# Seconds for a training.
LONG = [*QUICK, "train.epochs=40", "train.refit=false", "train.train_batch_size=16"]


@pytest.fixture(autouse=True)
def threads_as_before(matmul_precision: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def on_ray(cluster: Any) -> list[str]:
    """The settings of a training by two workers of the cluster."""
    return ["engine.kind=ray", f"engine.address={cluster.address}", "engine.train_workers=2"]


def prepared(folder: Path) -> Path:
    """A settings file of which all stages before the training are done."""
    write_logs(folder / "logs")
    config = write_settings(folder)
    for name in ("ingest", "prepare", "check"):
        run_stage(load_settings(config, QUICK), DAY, stage_named(name))
    return config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return prepared(tmp_path / "there")


def train(config: Path, *overrides: str) -> Trained:
    return run_stage(load_settings(config, overrides), DAY, stage_named("train")).result


def weights(trained: Trained) -> list[bytes]:
    return [(trained.folder / name).read_bytes() for name in (HELD_OUT_WEIGHTS, WEIGHTS)]


def train_here(folder: Path, *overrides: str) -> Trained:
    """The same by two processes of this machine, in other folders."""
    folder.mkdir()
    return train(prepared(folder), *overrides, "train.devices=2", "train.threads=2")


def last_epoch(trained: Trained) -> dict[str, torch.Tensor]:
    """The network after all epochs; the best one may be from before a misfortune."""
    return torch.load(trained.folder / "held_out" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The network after all epochs of `LONG`."""
    return last_epoch(train_here(tmp_path_factory.mktemp("long") / "here", *LONG))


def assert_same(trained: Trained, expected: dict[str, torch.Tensor]) -> None:
    found = last_epoch(trained)
    assert found.keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in found.items())


def checkpoints(config: Path) -> list[Path]:
    return list((config.parent / "work").glob("**/last.ckpt"))


def has_epochs(config: Path, count: int) -> Callable[[], bool]:
    """Whether a training has come so far."""

    def reached() -> bool:
        found = checkpoints(config)
        return bool(found) and torch.load(found[0], weights_only=True)["epoch"] + 1 >= count

    return reached


def epochs_logged(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.epoch for record in caplog.records if hasattr(record, "epoch")]


def train_through(config: Path, misfortune: Callable[[], None], *settings: str) -> Trained:
    """Train while something happens, after three epochs."""
    failed: list[BaseException] = []

    def happen() -> None:
        try:
            until(has_epochs(config, 3))
            misfortune()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=happen)
    thread.start()
    try:
        return train(config, *settings)
    finally:
        thread.join()
        assert not failed


def test_weights_are_those_of_as_many_processes_here(
    config: Path,
    cluster: Any,
    on_ray: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = [*QUICK, "train.epochs=3"]
    with caplog.at_level(logging.INFO):
        there = train(config, *settings, *on_ray)
    assert epochs_logged(caplog)[:3] == [1, 2, 3]
    assert ended_within(workers(cluster), 20)
    here = train_here(tmp_path / "here", *settings)
    assert weights(there) == weights(here)
    scores = [(each.best_epoch, each.valid_ndcg_at_10) for each in (there, here)]
    assert scores[0] == scores[1]
    names = [{path.name for path in each.folder.rglob("*")} for each in (there, here)]
    assert names[0] == names[1]  # the curve for the report among them


def test_a_killed_worker_costs_the_epoch_that_it_was_at(
    config: Path,
    cluster: Any,
    on_ray: list[str],
    undisturbed: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def kill() -> None:
        os.kill(max(workers(cluster)), signal.SIGKILL)

    with caplog.at_level(logging.INFO):
        there = train_through(config, kill, *LONG, *on_ray)
    assert "a worker on the Ray cluster is lost" in caplog.text
    epochs = epochs_logged(caplog)
    assert sorted(set(epochs)) == list(range(1, 41))
    assert len(epochs) < 40 + 3
    assert_same(there, undisturbed)


def test_a_removed_node_costs_no_more(
    config: Path, cluster: Any, on_ray: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]  # of four one is to spare

    def remove() -> None:
        at_work = {parent(each) for each in workers(cluster)}
        for node in nodes:
            if node.all_processes["raylet"][0].process.pid in at_work:
                nodes.remove(node)
                cluster.remove_node(node, allow_graceful=False)
                return
        raise AssertionError("no worker is there")

    try:
        with caplog.at_level(logging.INFO):
            train_through(config, remove, *LONG, *on_ray, "engine.train_workers=3")
    finally:
        for node in nodes:
            cluster.remove_node(node)
        cluster.wait_for_nodes()  # until Ray has noticed
    assert "a worker on the Ray cluster is lost" in caplog.text
    epochs = epochs_logged(caplog)
    assert sorted(set(epochs)) == list(range(1, 41))
    assert len(epochs) < 40 + 3


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_ends_leaves_no_worker_and_goes_on(
    config: Path,
    cluster: Any,
    on_ray: list[str],
    sent: signal.Signals,
    undisturbed: dict[str, torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = [*LONG, *on_ray]
    command = [sys.executable, "-m", "flows.cli.main", "train", "--config", str(config)]
    command += ["--date", str(DAY), *(flag for each in settings for flag in ("--set", each))]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    until(has_epochs(config, 3))
    there = workers(cluster)
    assert len(there) == 2
    process.send_signal(sent)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent), messages
    assert ended_within(there, 20)
    with caplog.at_level(logging.INFO):
        # SIGTERM: also the other way round, here after it was begun there.
        trained = train(config, *(settings if sent == signal.SIGKILL else LONG), "train.devices=1")
    epochs = epochs_logged(caplog)
    assert min(epochs) >= 4
    assert epochs == list(range(min(epochs), 41))
    if sent == signal.SIGKILL:
        assert_same(trained, undisturbed)


def test_one_that_was_begun_here_goes_on_there(
    config: Path, on_ray: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    class StoppedError(Exception):
        pass

    def stop(self: Any, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 5:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr("model.training.epoch_log.EpochLog.on_train_epoch_start", stop)
        with pytest.raises(StoppedError):
            train(config, *LONG)
    with caplog.at_level(logging.INFO):
        train(config, *LONG, *on_ray, "train.epochs=40")
    assert epochs_logged(caplog) == list(range(6, 41))


def test_an_error_of_a_worker_arrives_as_itself(
    config: Path, cluster: Any, on_ray: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DivergenceError, match="training diverged") as caught:
        train(config, *QUICK, *on_ray, "train.epochs=9", "train.learning_rate=1e30")
    assert str(config.parent) in str(caught.value)
    assert "lost" not in caplog.text
    with pytest.raises(ConfigError, match=r"train\.accelerator: .* 1 of gpu"):
        train(config, *QUICK, *on_ray, "train.accelerator=gpu")
    assert ended_within(workers(cluster), 20)


def test_a_cluster_without_room_is_one_line(
    config: Path, on_ray: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_place, "_PATIENCE", 2)
    with pytest.raises(ConfigError, match=r"workers of 1 cores.*2 cores.*train_workers"):
        train(config, *QUICK, *on_ray, "engine.train_workers=3")
