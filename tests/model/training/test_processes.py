"""A process that trains in a group, started by others, and errors by which such processes part."""

import pickle
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from model.config import TrainingConfig
from model.network.fearec import FEARec
from model.training.processes import ProcessGroup, lost_contact
from model.training.task import TrainingTask
from model.training.trainer import read_fitted, train_epochs
from tests.model.training.test_trainer import CONFIG, HISTORIES, QUICK, TRAIN, VALID, same, train


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
def group_ends(matmul_precision: None) -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_of_one_trains_as_a_process_alone_and_reports_its_checkpoints(
    tmp_path: Path, port: int
) -> None:
    saved: list[str] = []
    task = TrainingTask(CONFIG, TrainingConfig(**{**QUICK, "epochs": 3}), HISTORIES, TRAIN, VALID)
    train_epochs(
        task,
        tmp_path / "group",
        progress=False,
        group=ProcessGroup(0, 1, "127.0.0.1", port),
        on_saved=lambda path: saved.append(path.name),
    )
    alone = train(tmp_path / "alone", epochs=3)
    assert same(read_fitted(task, tmp_path / "group").network, alone.network)
    assert saved.count("last.ckpt") == 3
    assert saved[:2] == ["best.ckpt", "last.ckpt"]


def test_a_task_is_sent_to_other_processes_with_the_weights_that_it_starts_from() -> None:
    start = FEARec(CONFIG)
    task = TrainingTask(CONFIG, TrainingConfig(), HISTORIES, TRAIN, VALID, start=start)
    sent = pickle.loads(pickle.dumps(task))
    assert same(sent.start, start)
    assert sent.train.equal(TRAIN)
    assert sent.histories.items.equal(HISTORIES.items)


def test_a_lost_process_is_told_from_other_errors(port: int) -> None:
    with pytest.raises(dist.DistError) as nobody:
        dist.TCPStore("127.0.0.1", port, 2, timeout=timedelta(seconds=0.1))
    assert lost_contact(nobody.value)
    closed = "[/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    assert lost_contact(RuntimeError(closed))
    assert not lost_contact(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_contact(torch.OutOfMemoryError("CUDA out of memory"))
