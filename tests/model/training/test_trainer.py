"""A training run: it learns, repeats itself, goes on after a kill, and stops at its best."""

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pytest
import torch
from torch import Tensor

from model.config import FEARecConfig, TrainingConfig
from model.errors import ConfigError, FearecError
from model.network.fearec import FEARec
from model.ranking import metrics_at
from model.training.histories import EventHistories
from model.training.item_start import start_items
from model.training.lightning_module import FEARecModule, rank_positions
from model.training.samples import TrainingBatch
from model.training.task import TrainingTask
from model.training.trainer import Fitted, fit

pytestmark = pytest.mark.usefixtures("matmul_precision")

CATALOGUE, USERS, EVENTS = 20, 60, 12


def cycle() -> EventHistories:
    """Every user goes i -> i + 1 through the catalogue, from a random beginning."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, CATALOGUE, (USERS, 1), generator=generator)
    items = 1 + (start + torch.arange(EVENTS)) % CATALOGUE
    return EventHistories(items.flatten().int(), torch.arange(0, USERS * EVENTS + 1, EVENTS))


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
    "item_start": "random",  # co-occurrence knows the cycle before the first step
}


def train(folder: Path, config: FEARecConfig = CONFIG, **changes: Any) -> Fitted:
    valid, start = changes.pop("valid", VALID), changes.pop("start", None)
    epochs, mask_seen = changes.pop("epochs_instead", None), changes.pop("mask_seen", True)
    task = TrainingTask(
        config,
        TrainingConfig(**{**QUICK, **changes}),
        HISTORIES,
        TRAIN,
        valid,
        epochs=epochs,
        start=start,
        mask_seen=mask_seen,
    )
    return fit(task, folder, progress=False)


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


@pytest.mark.parametrize("ce_samples", [0, 12])
def test_it_learns_a_cyclic_catalogue(tmp_path: Path, ce_samples: int) -> None:
    fitted = train(
        tmp_path,
        CONFIG.model_copy(update={"ce_samples": ce_samples}),
        epochs=20,
        train_batch_size=64,
        learning_rate=8e-3,
        mask_seen=False,
    )
    with torch.no_grad():
        ranks = rank_positions(fitted.network, HISTORIES, TEST, mask_seen=False)
    assert metrics_at(ranks, (1,))["HR@1"] > 0.95
    assert fitted.valid_ndcg_at_10 > 0.95
    assert not fitted.network.training


def test_a_cosine_falls_to_nothing_and_a_refit_takes_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(
        FEARecModule,
        "on_train_epoch_start",
        lambda self: rates.append(self.optimizers().param_groups[0]["lr"]),
    )
    cosine: dict[str, Any] = {"learning_rate_schedule": "cosine", "valid": None, "epochs": 4}
    train(tmp_path / "whole", **cosine)
    whole = [3e-3 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert rates == pytest.approx(whole)
    rates.clear()
    train(tmp_path / "refit", **cosine, epochs_instead=2)
    train(tmp_path / "refit", **cosine, epochs_instead=3)  # goes on from a checkpoint
    assert rates == pytest.approx(whole[:3])


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

    def killed(self: FEARecModule, batch: TrainingBatch, batch_idx: int) -> Tensor:
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
    resumed: set[int] = set()
    monkeypatch.setattr(
        FEARecModule, "on_train_epoch_end", lambda self: resumed.add(self.current_epoch)
    )
    fitted = train(tmp_path, epochs=4, valid=None)
    assert same(fitted.network, four_epochs)
    assert resumed == set(range(epoch, 4))  # earlier epochs are not trained again
    logs = [csv.read_csv(log) for log in tmp_path.rglob("metrics.csv")]
    assert {each for log in logs for each in log["epoch"].to_pylist()} == set(range(4))


def test_items_start_from_co_occurrence_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def noted(network: FEARec, *arguments: Any) -> None:
        started.append(network)
        start_items(network, *arguments)

    monkeypatch.setattr("model.training.trainer.start_items", noted)
    near: dict[str, Any] = {"item_start": "co_occurrence", "valid": None}
    whole = train(tmp_path / "whole", epochs=3, **near)
    assert len(started) == 1
    train(tmp_path / "killed", epochs=2, **near)
    assert same(train(tmp_path / "killed", epochs=3, **near).network, whole.network)
    assert len(started) == 2  # not when it went on
    train(tmp_path / "warm", epochs=1, start=whole.network, **near)
    train(tmp_path / "random", epochs=1, valid=None)
    assert len(started) == 2


def test_a_run_goes_on_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.5, 0.3, 0.2])
    train(tmp_path / "begun", epochs=3)
    (tmp_path / "begun").rename(tmp_path / "moved")
    fitted = train(tmp_path / "moved", epochs=4)
    assert (fitted.epoch, fitted.valid_ndcg_at_10) == (2, pytest.approx(0.5))
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint_counts_as_none(
    tmp_path: Path, four_epochs: FEARec, name: str
) -> None:
    train(tmp_path, epochs=2, valid=None)
    checkpoint = tmp_path / name
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= (
        1  # amid the weights, which PyTorch's own reader takes as they are
    )
    checkpoint.write_bytes(content)
    assert same(train(tmp_path, epochs=4, valid=None).network, four_epochs)


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


def test_each_of_several_processes_has_draws_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FEARecModule(CONFIG, TrainingConfig())
    draws = []
    for rank in range(3):
        monkeypatch.setattr(FEARecModule, "global_rank", rank)
        module.on_train_epoch_start()
        draws.append(torch.rand(5))
    assert len({tuple(each.tolist()) for each in draws}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "recbole"])
def test_several_devices_train_together(tmp_path: Path, preset: str) -> None:
    """Two processes on the CPU, by Lightning's DDP; the last batch is of one sample."""
    (tmp_path / "run.py").write_text(f"""
import importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_fit", {str(Path(__file__))!r})
test_fit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_fit)
config = test_fit.FEARecConfig.from_preset({preset!r}, **{{
    **test_fit.CONFIG.model_dump(include={{"n_items", "MAX_ITEM_LIST_LENGTH", "hidden_size"}}),
}})
if __name__ == "__main__":
    fitted = test_fit.train(
        Path({str(tmp_path)!r}), config, epochs=3, train_batch_size=49, devices=2, strategy="ddp"
    )
    finite = all(p.isfinite().all() for p in fitted.network.parameters())
    print("trained", fitted.epoch, finite, fitted.valid_ndcg_at_10 > 0)
""")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(r"trained \d True True\n", done.stdout)
    assert done.stderr == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_an_accelerator_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.accelerator: .* expected .* 1 of gpu"):
        train(tmp_path, accelerator="gpu")


def test_the_best_epoch_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.5, 0.3, 0.2, 0.9])
    stopped = train(tmp_path / "stopped", epochs=9, stopping_step=2)
    assert stopped.epoch == 2
    assert stopped.valid_ndcg_at_10 == pytest.approx(0.5)
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
    assert fitted.valid_ndcg_at_10 is None


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


def test_a_progress_bar_is_drawn_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.trainer.draws_bars", lambda: True)
    training = TrainingConfig(**{**QUICK, "epochs": 1})
    fit(TrainingTask(CONFIG, training, HISTORIES, TRAIN, VALID), tmp_path, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Epoch" in err
    assert "NDCG@10" in err


def test_lines_of_progress_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.progress._SECONDS_BETWEEN", 0)
    training = TrainingConfig(**{**QUICK, "epochs": 2, "train_batch_size": 256})
    fit(TrainingTask(CONFIG, training, HISTORIES, TRAIN, VALID), tmp_path, progress=True)
    lines = [each for each in caplog.messages if each.startswith("training: ")]
    batches = 2 * math.ceil(len(TRAIN) / 256)
    assert lines[0] == "training: started"
    assert len(lines) == 1 + batches + 1
    assert f"training: 1 of {batches} batches" in lines[1]
    assert " left, epoch 1 of 2" in lines[2]
    assert re.search(r"100%.* batches/s, epoch 2 of 2, loss \d.*, NDCG@10 0\.\d{4}$", lines[-1])
    caplog.clear()
    fit(TrainingTask(CONFIG, training, HISTORIES, TRAIN, VALID), tmp_path / "quiet", progress=False)
    assert not any(each.startswith("training: ") for each in caplog.messages)


@pytest.mark.parametrize(
    "changes",
    [
        {"contrast": "us_x", "fredom": True, "fredom_type": "us"},
        {"ce_chunk_size": 6, "contrast": "none"},
        {"ce_samples": 6, "contrast": "none"},
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

    def watch(self: FEARecModule, batch: TrainingBatch, batch_idx: int) -> Tensor:
        orders[self.current_epoch] += batch.item_id.tolist()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FEARecModule, "training_step", watch)
    train(tmp_path)
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(HISTORIES.items[TRAIN].tolist())
    assert orders[0] != orders[1]


@pytest.mark.parametrize("epochs", [1, 20])
@pytest.mark.parametrize("valid", [VALID, None])
@pytest.mark.parametrize("batch", [128, 10_000])  # several batches per epoch, and a single one
def test_a_training_that_diverges_ends_with_one_line_and_the_remedy(
    tmp_path: Path, epochs: int, valid: Tensor | None, batch: int
) -> None:
    seen: list[int] = []
    training = TrainingConfig(
        **{**QUICK, "epochs": epochs, "train_batch_size": batch, "learning_rate": 1e30}
    )
    with pytest.raises(FearecError, match="the training diverged") as caught:
        fit(
            TrainingTask(CONFIG, training, HISTORIES, TRAIN, valid),
            tmp_path,
            progress=False,
            on_epoch=lambda epoch, _: seen.append(epoch),
        )
    assert "train.learning_rate" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(seen) <= 1


@pytest.mark.slow
def test_a_training_on_several_devices_that_diverges_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FearecError, match=r"a training process failed.*diverged") as caught:
        train(tmp_path, devices=2, learning_rate=1e30)
    assert "\n" not in str(caught.value)
