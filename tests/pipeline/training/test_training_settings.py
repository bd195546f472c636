"""Every training setting has an effect; none is ignored."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

import model.training.lightning_module
import model.training.trainer
import pipeline.training.train
from model.config import FEARecConfig, TrainingConfig
from model.network.fearec import FEARec
from model.training.histories import EventHistories
from model.training.lightning_module import FEARecModule
from model.training.task import TrainingTask
from model.training.trainer import Fitted, fit
from pipeline.config.settings import Settings
from pipeline.results import Prepared
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.stages import Train
from pipeline.storage.locations import RunLocations, Warehouse

pytestmark = pytest.mark.usefixtures("matmul_precision")

CONFIG = FEARecConfig.from_preset(
    "paper", n_items=30, MAX_ITEM_LIST_LENGTH=8, hidden_size=8, inner_size=16
)
HISTORIES = EventHistories(
    torch.randint(1, 30, (500,), generator=torch.Generator().manual_seed(0), dtype=torch.int32),
    torch.arange(0, 501, 10),
)
ORDER = torch.arange(500)
TRAIN, VALID = ORDER[(ORDER % 10 > 0) & (ORDER % 10 < 9)], ORDER[ORDER % 10 == 9]


def train(folder: Path, *, valid: Tensor | None = VALID, **changes: Any) -> Fitted:
    quick = {"epochs": 2, "train_batch_size": 128, "accelerator": "cpu"}
    training = TrainingConfig(**{**quick, **changes})
    task = TrainingTask(CONFIG, training, HISTORIES, TRAIN, valid)
    return fit(task, folder, progress=False)


class StoppedError(Exception):
    """Nothing is to be trained."""


def weights(folder: Path, name: str, value: Any) -> Any:
    network = train(folder, valid=None, **{name: value}).network
    return network.item_embedding.weight.detach().numpy().tobytes()


def worse_by_epoch(self: FEARecModule) -> None:
    self._ranks.clear()
    self.log("NDCG@10", 1 / (1 + self.current_epoch))


def epochs_trained(folder: Path, name: str, value: Any) -> Any:
    epochs: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FEARecModule, "on_validation_epoch_end", worse_by_epoch)
        patch.setattr(
            FEARecModule, "on_train_epoch_end", lambda self: epochs.add(self.current_epoch)
        )
        train(folder, epochs=5, **{name: value})
    return len(epochs)


def validation_batches(folder: Path, name: str, value: Any) -> Any:
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        rank = model.training.lightning_module.rank_positions

        def watch(
            network: FEARec, histories: EventHistories, at: Tensor, mask_seen: bool
        ) -> Tensor:
            sizes.append(len(at))
            return rank(network, histories, at, mask_seen)

        patch.setattr(model.training.lightning_module, "rank_positions", watch)
        train(folder, **{name: value})
    return max(sizes)


def files(folder: Path, name: str, value: Any) -> Any:
    train(folder, **{name: value})
    return frozenset(path.name.split(".")[0] for path in folder.rglob("*") if path.is_file())


def trainer_argument(folder: Path, name: str, value: Any) -> Any:
    """What Lightning's trainer is told; other devices may not be at hand."""
    told = []

    def record(**arguments: Any) -> Trainer:
        told.append(arguments[name])
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.training.trainer, "Trainer", record)
        with pytest.raises(StoppedError):
            train(folder, **{name: value})
    return told[0]


def threads_at_work(folder: Path, name: str, value: Any) -> Any:
    before = torch.get_num_threads()
    try:
        train(folder, **{name: value})
        return torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def night(folder: Path, name: str, value: Any) -> Any:
    """What the training stage does: whose weights it begins from, and its runs."""
    done: list[Any] = []
    prepared = Prepared.__new__(Prepared)
    for field, given in {"folder": folder, "n_items": 30}.items():
        object.__setattr__(prepared, field, given)
    object.__setattr__(prepared, "content_hash", "the same")
    settings = Settings(work_dir=folder, train={name: value})

    def no_champion(*_: Any) -> None:
        done.append("champion")

    def run(task: TrainingTask, folder: Path) -> Fitted:
        done.append(f"fit {task.epochs}")
        folder.mkdir(parents=True)  # where it puts its checkpoints
        return Fitted(FEARec(CONFIG), 3, 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.training.train, "read_histories", lambda *given: HISTORIES)
        patch.setattr("pipeline.runner.stages.model_stages.champion_before", no_champion)
        patch.setattr(pipeline.training.train, "fit", run)
        patch.setattr(pipeline.training.train, "load_network", lambda config, path: FEARec(config))
        run = RunLocations(Warehouse("nowhere"), folder, date(2026, 11, 1))
        before = RunResults(StageRecord("prepare", "", "", 0.0, prepared))
        Train.of(settings, run, before).run()
    return tuple(done)


Effect = Callable[[Path, str, Any], Any]
FIELDS: dict[str, tuple[Effect, list[Any]]] = {
    "epochs": (weights, [1, 2]),
    "train_batch_size": (weights, [128, 64]),
    "threads": (threads_at_work, [1, 2]),
    "eval_batch_size": (validation_batches, [7, 50]),
    "learning_rate": (weights, [3e-3, 1e-3]),
    "learning_rate_schedule": (weights, ["constant", "cosine"]),
    "weight_decay": (weights, [0.0, 0.1]),
    "item_start": (weights, ["random", "co_occurrence"]),
    "item_dropout": (weights, [0.0, 0.5]),
    "stopping_step": (epochs_trained, [1, 2, 3]),
    "clip_grad_norm": (weights, [None, 1e-3]),
    "seed": (weights, [1, 2]),
    "refit": (night, [True, False]),
    "warm_start": (night, [True, False]),
    "accelerator": (trainer_argument, ["auto", "cpu", "gpu"]),
    "devices": (trainer_argument, [1, 2, "auto"]),
    "strategy": (trainer_argument, ["auto", "ddp"]),
    "precision": (weights, ["32-true", "bf16-mixed"]),
    "logger": (files, ["csv", "tensorboard"]),
}


@pytest.mark.parametrize("name", TrainingConfig.model_fields)
def test_every_training_setting_has_an_effect(name: str, tmp_path: Path) -> None:
    assert name in FIELDS, f"say here what {name} does"
    effect, values = FIELDS[name]
    found = {effect(tmp_path / str(i), name, value) for i, value in enumerate(values)}
    assert len(found) == len(values)


def test_fields_are_those_of_the_settings() -> None:
    assert set(FIELDS) == set(TrainingConfig.model_fields)
