"""A training run: it learns, repeats itself, goes on after a kill, and stops at its best."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

import model.fit
import model.module
import pipeline.train
from model.config import FEARecConfig, TrainingConfig
from model.fearec import FEARec
from model.fit import Fitted, fit
from model.module import FEARecModule, rank_positions
from model.ranking import metrics_at
from model.sampling import Batch, Histories
from pipeline.prepare import Prepared
from pipeline.settings import Settings

CATALOGUE, USERS, EVENTS = 20, 60, 12


def cycle() -> Histories:
    """Every user goes i -> i + 1 through the catalogue, from a random beginning."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, CATALOGUE, (USERS, 1), generator=generator)
    items = 1 + (start + torch.arange(EVENTS)) % CATALOGUE
    return Histories(items.flatten().int(), torch.arange(0, USERS * EVENTS + 1, EVENTS))


HISTORIES = cycle()
ORDER = torch.arange(USERS * EVENTS)
TRAIN = ORDER[(ORDER % EVENTS > 0) & (ORDER % EVENTS < EVENTS - 2)]
VALID = ORDER[ORDER % EVENTS == EVENTS - 2]
TEST = ORDER[ORDER % EVENTS == EVENTS - 1]

CONFIG = FEARecConfig.from_preset(
    "paper", n_items=CATALOGUE + 1, MAX_ITEM_LIST_LENGTH=10, hidden_size=16, inner_size=32,
    hidden_dropout_prob=0.2, attn_dropout_prob=0.2,
)  # fmt: skip
QUICK: dict[str, Any] = {
    "epochs": 2,
    "train_batch_size": 128,
    "eval_batch_size": 50,
    "accelerator": "cpu",
    "learning_rate": 3e-3,
}


def train(folder: Path, config: FEARecConfig = CONFIG, **changes: Any) -> Fitted:
    valid, start = changes.pop("valid", VALID), changes.pop("start", None)
    epochs, mask_seen = changes.pop("epochs_instead", None), changes.pop("mask_seen", True)
    return fit(
        config,
        TrainingConfig(**{**QUICK, **changes}),
        HISTORIES,
        TRAIN,
        valid,
        folder,
        epochs=epochs,
        start=start,
        mask_seen=mask_seen,
        progress=False,
    )


def same(a: FEARec, b: FEARec) -> bool:
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def four_epochs(tmp_path_factory: pytest.TempPathFactory) -> FEARec:
    """The network after four undisturbed epochs."""
    return train(tmp_path_factory.mktemp("four"), epochs=4, valid=None).network


def script(patch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Makes the validations of the epochs give these NDCG@10."""

    def log(self: FEARecModule) -> None:
        self._ranks.clear()
        if not self.trainer.sanity_checking:
            self.log("NDCG@10", values[self.current_epoch])

    patch.setattr(FEARecModule, "on_validation_epoch_end", log)


def test_it_learns_a_cyclic_catalogue(tmp_path: Path) -> None:
    fitted = train(tmp_path, epochs=20, train_batch_size=64, learning_rate=8e-3, mask_seen=False)
    with torch.no_grad():
        ranks = rank_positions(fitted.network, HISTORIES, TEST, mask_seen=False)
    assert metrics_at(ranks, (1,))["HR@1"] > 0.95
    assert fitted.valid_ndcg_at_10 > 0.95
    assert not fitted.network.training


def test_a_seed_repeats_a_run_and_another_does_not(tmp_path: Path, four_epochs: FEARec) -> None:
    again = train(tmp_path / "again", epochs=4, valid=None).network
    other = train(tmp_path / "other", epochs=4, valid=None, seed=1).network
    assert same(again, four_epochs)
    assert not same(other, four_epochs)


def test_validation_does_not_change_the_training(tmp_path: Path, four_epochs: FEARec) -> None:
    # The refit trains as many epochs without one.
    train(tmp_path, epochs=4)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in four_epochs.state_dict().items():
        assert state[f"network.{name}"].equal(value)


@pytest.mark.parametrize("valid", [VALID, None], ids=["validated", "not validated"])
def test_more_epochs_in_the_same_folder_go_on(
    tmp_path: Path, four_epochs: FEARec, valid: Tensor | None
) -> None:
    train(tmp_path, epochs=2, valid=valid)
    fitted = train(tmp_path, epochs=4, valid=valid)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state["network.item_embedding.weight"].equal(four_epochs.item_embedding.weight)
    if valid is None:
        assert same(fitted.network, four_epochs)
        assert fitted.epoch == 4


class KilledError(Exception):
    """Stands for a kill."""


def kill_in_epoch(epoch: int, kill: Callable[[], None]) -> Callable[..., Tensor]:
    """A training step that is killed in the midst of an epoch, counted from 0."""
    step = FEARecModule.training_step

    def killed(self: FEARecModule, batch: Batch, batch_idx: int) -> Tensor:
        if self.current_epoch == epoch and batch_idx == 2:
            kill()
        return step(self, batch, batch_idx)

    return killed


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, four_epochs: FEARec, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    def stop() -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(FEARecModule, "training_step", kill_in_epoch(epoch, stop))
        with pytest.raises(KilledError):
            train(tmp_path, epochs=4, valid=None)
    resumed = []
    with monkeypatch.context() as patch:
        step = FEARecModule.training_step
        patch.setattr(
            FEARecModule,
            "training_step",
            lambda self, *args: (resumed.append(self.current_epoch), step(self, *args))[1],
        )
        fitted = train(tmp_path, epochs=4, valid=None)
    assert same(fitted.network, four_epochs)
    assert sorted(set(resumed)) == list(range(epoch, 4))  # earlier epochs are not trained again


@pytest.mark.slow
def test_a_run_killed_by_the_system_goes_on_to_the_same_weights(
    tmp_path: Path, four_epochs: FEARec
) -> None:
    code = f"""
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_fit", {str(Path(__file__))!r})
test_fit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_fit)
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
test_fit.FEARecModule.training_step = test_fit.kill_in_epoch(2, kill)
test_fit.train(Path({str(tmp_path)!r}), epochs=4, valid=None)
"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert same(train(tmp_path, epochs=4, valid=None).network, four_epochs)


def test_the_best_epoch_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.5, 0.3, 0.2, 0.9])
    stopped = train(tmp_path / "stopped", epochs=9, stopping_step=2)
    assert (stopped.epoch, stopped.valid_ndcg_at_10) == (2, pytest.approx(0.5))
    two = train(tmp_path / "two", epochs=2, valid=None)
    assert same(stopped.network, two.network)


def test_the_last_checkpoint_is_of_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise a killed run trains again what came after its best epoch.
    script(monkeypatch, [0.1, 0.5, 0.3, 0.2])
    train(tmp_path, epochs=3)
    epochs = [
        torch.load(tmp_path / name, weights_only=True)["epoch"]
        for name in ("best.ckpt", "last.ckpt")
    ]
    assert epochs == [1, 2]


def test_a_run_that_stopped_early_is_not_trained_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed after its last epoch, before anybody noted the end.
    script(monkeypatch, [0.1, 0.5, 0.3, 0.2, 0.9, 0.95, 0.99, 0.995, 0.999])
    first = train(tmp_path, epochs=9, stopping_step=2)
    again = train(tmp_path, epochs=9, stopping_step=2)
    assert (again.epoch, again.valid_ndcg_at_10) == (first.epoch, first.valid_ndcg_at_10)
    assert same(again.network, first.network)


@pytest.mark.parametrize("valid", [None, VALID[:0]])
def test_without_validation_every_epoch_is_trained(tmp_path: Path, valid: Tensor | None) -> None:
    fitted = train(tmp_path, valid=valid)
    assert fitted.epoch == 2
    assert math.isnan(fitted.valid_ndcg_at_10)


def test_epochs_may_be_given_apart_from_the_settings(tmp_path: Path) -> None:
    assert train(tmp_path, epochs=7, epochs_instead=3, valid=None).epoch == 3


def test_training_begins_from_given_weights(tmp_path: Path) -> None:
    torch.manual_seed(11)
    start = FEARec(CONFIG)
    fitted = train(tmp_path, start=start, epochs=1, learning_rate=1e-9)
    for found, given in zip(fitted.network.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(found, given, rtol=0, atol=1e-6)


def test_checkpoints_and_logs_are_in_the_folder(tmp_path: Path) -> None:
    train(tmp_path)
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    (log,) = tmp_path.rglob("metrics.csv")
    header, *rows = log.read_text().splitlines()
    assert {"NDCG@10", "loss", "epoch"} <= set(header.split(","))
    assert len(rows) >= 2


def test_a_progress_bar_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = TrainingConfig(**{**QUICK, "epochs": 1})
    fit(CONFIG, training, HISTORIES, TRAIN, VALID, tmp_path, progress=True)
    out = capsys.readouterr().out
    assert "Epoch" in out
    assert "NDCG@10" in out


@pytest.mark.parametrize(
    "changes",
    [
        {"contrast": "us_x", "fredom": True, "fredom_type": "us"},
        {"ce_chunk_size": 6, "contrast": "none"},
        {"loss_type": "BPR", "sample_num": 2, "contrast": "us", "sim": "cos"},
    ],
)
def test_bfloat16_trains_on_the_cpu(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update=changes)
    exact = train(tmp_path / "exact", config, epochs=3, valid=None)
    mixed = train(tmp_path / "mixed", config, epochs=3, valid=None, precision="bf16-mixed")

    def loss(folder: str) -> float:
        (log,) = (tmp_path / folder).rglob("metrics.csv")
        header, *rows = log.read_text().splitlines()
        return float(rows[-1].split(",")[header.split(",").index("loss")])

    assert all(p.dtype == torch.float32 for p in mixed.network.parameters())
    assert loss("mixed") == pytest.approx(loss("exact"), rel=0.02)
    assert not same(mixed.network, exact.network)


def test_every_epoch_has_an_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: dict[int, list[int]] = {0: [], 1: []}
    step = FEARecModule.training_step

    def watch(self: FEARecModule, batch: Batch, batch_idx: int) -> Tensor:
        orders[self.current_epoch] += batch.item_id.tolist()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FEARecModule, "training_step", watch)
    train(tmp_path)
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(HISTORIES.items[TRAIN].tolist())
    assert orders[0] != orders[1]


# Every training setting


def weights(folder: Path, name: str, value: Any) -> Any:
    network = train(folder, valid=None, **{name: value}).network
    return network.item_embedding.weight.detach().numpy().tobytes()


def epochs_trained(folder: Path, name: str, value: Any) -> Any:
    epochs: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        script(patch, [0.5, 0.4, 0.3, 0.2, 0.1])
        patch.setattr(
            FEARecModule, "on_train_epoch_end", lambda self: epochs.add(self.current_epoch)
        )
        train(folder, epochs=5, **{name: value})
    return len(epochs)


def validation_batches(folder: Path, name: str, value: Any) -> Any:
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        rank = model.module.rank_positions

        def watch(network: FEARec, histories: Histories, at: Tensor, mask_seen: bool) -> Tensor:
            sizes.append(len(at))
            return rank(network, histories, at, mask_seen)

        patch.setattr(model.module, "rank_positions", watch)
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
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.fit, "Trainer", record)
        with pytest.raises(KilledError):
            train(folder, **{name: value})
    return told[0]


def night(folder: Path, name: str, value: Any) -> Any:
    """What the training stage does: whose weights it begins from, and its runs."""
    done: list[Any] = []
    prepared = Prepared.__new__(Prepared)
    for field, given in {"folder": folder, "n_items": CATALOGUE + 1}.items():
        object.__setattr__(prepared, field, given)
    object.__setattr__(prepared, "interactions_version", 0)
    settings = Settings(work_dir=folder, train={name: value})

    def no_champion(*_: Any, **__: Any) -> None:
        done.append("champion")

    def run(*given: Any, epochs: int | None, **_: Any) -> Fitted:
        done.append(f"fit {epochs}")
        given[5].mkdir(parents=True)  # where it puts its checkpoints
        return Fitted(FEARec(CONFIG), 3, 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.train, "read_histories", lambda folder: HISTORIES)
        patch.setattr(pipeline.train, "read_champion", no_champion)
        patch.setattr(pipeline.train, "fit", run)
        patch.setattr(pipeline.train, "load_network", lambda config, path: FEARec(config))
        patch.setattr(pipeline.train, "save_weights", lambda network, path: None)
        pipeline.train.train(settings, date(2026, 11, 1), prepared)
    return tuple(done)


Effect = Callable[[Path, str, Any], Any]
FIELDS: dict[str, tuple[Effect, list[Any]]] = {
    "epochs": (weights, [1, 2]),
    "train_batch_size": (weights, [128, 64]),
    "eval_batch_size": (validation_batches, [7, 50]),
    "learning_rate": (weights, [3e-3, 1e-3]),
    "weight_decay": (weights, [0.0, 0.1]),
    "stopping_step": (epochs_trained, [1, 2, 3]),
    "clip_grad_norm": (weights, [None, 1e-3]),
    "seed": (weights, [1, 2]),
    "refit": (night, [True, False]),
    "warm_start": (night, [True, False]),
    "accelerator": (trainer_argument, ["auto", "cpu", "gpu", "mps"]),
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


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lightning's settings of a process are put back."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)
