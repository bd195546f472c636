"""The training stage on a small prepared folder: whose weights it begins from, kills, records."""

import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file

import model.training.checkpoints
import model.training.trainer
from model.training.task import TrainingTask
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, WEIGHTS
from pipeline.bundles.registry import RegisteredModel
from pipeline.config.sections import PrepareSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, InputError, StorageError
from pipeline.results import Prepared, Trained
from pipeline.runner.cache import RunResults, StageRecord, read_record
from pipeline.runner.failures import storage_failures
from pipeline.runner.stages import Train
from pipeline.schema import ITEMS_FILE
from pipeline.storage.content_hash import content_hash
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.training import train
from tests.helpers import stages
from tests.helpers.prepared_folders import NOON, write_prepared

DAY = date(2026, 11, 2)
N_ITEMS = 12


def prepare(folder: Path, length: int = 6) -> Prepared:
    """Users who go round the items, each from another one on, a day a step until `DAY`."""
    histories = [[(user + step) % N_ITEMS for step in range(length)] for user in range(24)]
    times = [[NOON - timedelta(days=length - 2 - step) for step in range(length)]] * len(histories)
    return write_prepared(folder, histories, times, range(N_ITEMS))


NETWORK = {
    "contrast": "none", "hidden_size": 8, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 6, "n_layers": 1
}  # fmt: skip


def quick(
    folder: Path,
    network: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    **training: Any,
) -> Settings:
    given = {"epochs": 2, "accelerator": "cpu", **training}
    return Settings(
        warehouse=str(folder / "warehouse"),
        work_dir=folder / "work",
        model={**NETWORK, **(network or {})},
        train=given,
        evaluate={"topk": (5,), **(evaluate or {})},
    )


class Champion:
    """As much of a bundle as training looks at."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.model_version = "yesterday"
        self.description = SimpleNamespace(
            settings={"evaluate": {"topk": [5]}},
            hyper_parameters=quick(folder).model.config(99).model_dump(),
            files={HELD_OUT_WEIGHTS: ""},
            input_types=(),
            data=SimpleNamespace(last_event=NOON - timedelta(days=1)),
        )

    def items(self) -> pa.Table:
        return pa.table({"item_id": range(N_ITEMS)})


@pytest.fixture
def champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Yesterday's weights, as the champion."""
    yesterday = stages.train(
        quick(tmp_path / "yesterday"), date(2026, 11, 1), prepare(tmp_path / "yesterday/prepared")
    )
    registered = RegisteredModel(run_date=date(2026, 11, 1), model_version="yesterday", path="")
    monkeypatch.setattr(stages, "champion_before", lambda locations: registered)
    monkeypatch.setattr(train, "local_bundle", lambda locations, model: yesterday.folder)
    monkeypatch.setattr(train.Bundle, "load", lambda path: Champion(path))
    return yesterday.folder


def test_a_finished_run_is_read_back_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, prepared = quick(tmp_path), prepare(tmp_path / "prepared")
    first = stages.train(settings, DAY, prepared)
    weights = (first.folder / WEIGHTS).read_bytes()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "fit", never)
    assert stages.train(settings, DAY, prepared) == first
    assert (first.folder / WEIGHTS).read_bytes() == weights
    codec = TypeAdapter(Trained)
    assert codec.validate_json(codec.dump_json(first)) == first


def test_no_flipped_bit_of_what_says_that_a_training_ended_is_believed(tmp_path: Path) -> None:
    weights = tmp_path / WEIGHTS
    weights.write_bytes(b"weights")
    fit = train._Fit(3, 0.25, content_hash(weights)).with_checksum()
    whole = train._CODEC.dump_json(fit)
    (tmp_path / "finished.json").write_bytes(whole)
    assert train._read_finished(tmp_path / "finished.json", weights) == fit
    for position in range(len(whole)):
        for bit in range(8):
            spoilt = bytearray(whole)
            spoilt[position] ^= 1 << bit
            (tmp_path / "finished.json").write_bytes(spoilt)
            assert train._read_finished(tmp_path / "finished.json", weights) in (None, fit)


def test_histories_of_two_events_are_too_short_to_train_on(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared", length=2)
    # One trained on by the refit, one tested.
    with pytest.raises(InputError, match="nothing to train on"):
        stages.train(quick(tmp_path), DAY, prepared)


def test_other_histories_are_another_run(tmp_path: Path) -> None:
    settings = quick(tmp_path)
    first = stages.train(settings, DAY, prepare(tmp_path / "first"))
    second = stages.train(settings, DAY, prepare(tmp_path / "second", length=5))
    assert first.folder != second.folder


def test_the_evaluated_weights_begin_from_the_champions_evaluated_ones(
    tmp_path: Path, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    real = train.fit

    def watched(task: TrainingTask, folder: Path) -> Any:
        starts.append(task.start.item_embedding.weight.detach().clone())
        return real(task, folder)

    monkeypatch.setattr(train, "fit", watched)
    trained = stages.train(quick(tmp_path), DAY, prepare(tmp_path / "prepared"))
    assert trained.parent == "yesterday"
    for start, name in zip(starts, (HELD_OUT_WEIGHTS, WEIGHTS), strict=True):
        assert torch.equal(start, load_file(champion / name)["item_embedding.weight"])


def test_a_champion_evaluated_by_another_split_is_no_parent(
    tmp_path: Path, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_time = quick(tmp_path, evaluate={"split": "time", "test_days": 1, "valid_days": 2})
    assert stages.train(by_time, DAY, prepare(tmp_path / "prepared")).parent is None
    assert "trained under another split" in caplog.text


def test_a_champion_of_other_users_and_items_is_no_parent(
    tmp_path: Path, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = PrepareSettings(user_inter_num_interval="[2,inf)")
    filtered = quick(tmp_path).model_copy(update={"prepare": limits})
    assert stages.train(filtered, DAY, prepare(tmp_path / "prepared")).parent is None
    assert "it was trained on other users and items" in caplog.text


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
def test_training_is_given_nothing_of_the_test(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    real = train.fit

    def watched(task: TrainingTask, folder: Path) -> Any:
        given.append((task.histories, task.train, task.valid))
        return real(task, folder)

    monkeypatch.setattr(train, "fit", watched)
    settings = quick(tmp_path, evaluate={"split": split, "test_days": 2, "valid_days": 2}, epochs=1)
    stages.train(settings, DAY, prepare(tmp_path / "prepared"))
    (histories, targets, valid), (everything, refitted, none) = given
    kept, trained = (4, 1) if split == "time" else (5, 3)  # items a user, and targets
    assert histories.offsets.diff().tolist() == [kept] * 24
    assert (len(targets), len(valid)) == (24 * trained, 24)
    assert (valid - histories.offsets[:-1] == trained + 1).all()
    assert everything.offsets.diff().tolist() == [6] * 24
    assert (len(refitted), len(none)) == (24 * 5, 0)


def test_what_cannot_be_evaluated_is_not_trained(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared")
    record = StageRecord("prepare", "", "", 0.0, prepared)
    with pytest.raises(ConfigError, match=r"at most V-1 = 12; found 13"):
        Train.check_settings(
            quick(tmp_path, evaluate={"topk": (13,)}),
            RunLocations(Warehouse("warehouse"), tmp_path, DAY),
            RunResults(record),
            whole_run=False,
        )
    late = quick(tmp_path, evaluate={"split": "time", "test_days": 1})
    with pytest.raises(InputError, match="no event in the days of the test"):
        stages.train(late, date(2026, 12, 24), prepared)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_size": 4}, "it has another architecture"),
        ({"position_origin": "end"}, "its model.position_origin is start, not"),
        ({"padding": "cyclic"}, "its model.padding is [a-z]+, not cyclic"),
        ({"n_heads": 1, "dual_domain": True}, "its model.n_heads is 2, not 1"),
    ],
)
def test_weights_of_another_architecture_or_meaning_are_not_taken(
    changes: dict[str, Any],
    why: str,
    tmp_path: Path,
    champion: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained = stages.train(quick(tmp_path, changes), DAY, prepare(tmp_path / "prepared"))
    assert trained.parent is None
    assert re.search(f"No warm start from .*: {why}", caplog.text)


def test_a_checkpoint_cut_short_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = model.training.checkpoints.WholeCheckpoints()
    io.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")

    def full_disk(self: Any, checkpoint: Any, path: Path, storage_options: Any = None) -> None:
        Path(path).write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.training.checkpoints.TorchCheckpointIO, "save_checkpoint", full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("function", ["fit", "save_weights"])
def test_a_full_disk_is_that_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    settings, prepared = quick(tmp_path), prepare(tmp_path / "prepared")
    monkeypatch.setattr(train, function, full_disk)
    place = tmp_path / "work" / f"run_date={DAY}" / "train"
    with (
        pytest.raises(StorageError, match=rf"^{place}/\w+: the disk is full"),
        storage_failures(settings),
    ):
        stages.train(settings, DAY, prepared)


def test_a_vocabulary_numbered_otherwise_has_no_parent(
    tmp_path: Path, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(tmp_path / "prepared")
    items = pq.read_table(prepared.folder / ITEMS_FILE)
    other = items.set_column(
        1, items.schema.field("item_id"), items["item_id"].take([1, 0, *range(2, 12)])
    )
    pq.write_table(other, prepared.folder / ITEMS_FILE)
    assert stages.train(quick(tmp_path), DAY, prepared).parent is None
    assert "its items have other indices" in caplog.text


@pytest.mark.slow
def test_two_devices_train_what_one_does_and_the_night_is_done_once(tmp_path: Path) -> None:
    logs = {
        "user_id": [user for user in range(24) for _ in range(6)],
        "item_id": [(user + step) % N_ITEMS for user in range(24) for step in range(6)],
        "timestamp": [NOON - timedelta(days=6 - step) for _ in range(24) for step in range(6)],
    }
    pq.write_table(pa.table(logs), tmp_path / "logs.parquet")
    # Without chance, and with even batches, whose halves have the mean that the whole has.
    (tmp_path / "fearec.toml").write_text("""
logs.path = "logs.parquet"
score.top_k = 5
evaluate.topk = 5
train = {accelerator = "cpu", epochs = 3, train_batch_size = 24}
[model]
contrast = "none"
delays = "sequence"
MAX_ITEM_LIST_LENGTH = 6
hidden_size = 8
hidden_dropout_prob = 0.0
attn_dropout_prob = 0.0
""")
    trained = []
    for devices in (1, 2):
        night = tmp_path / str(devices)
        values = {
            "train.devices": devices, "warehouse": night / "warehouse", "work_dir": night / "work"
        }  # fmt: skip
        given = [f"{name}={value}" for name, value in values.items()]
        done = subprocess.run(
            [Path(sys.executable).with_name("fearec"), "nightly", "--date", str(DAY)]
            + [part for override in given for part in ("--set", override)],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count(f"Night of {DAY}") == 1
        # One commit each, but for the housekeeping's; `runs` is created by one of its own.
        for table, count in {"runs": 2, "recommendations": 1}.items():
            commits = DeltaTable(str(night / "warehouse" / table)).history()
            operations = [commit["operation"] for commit in commits]
            assert len(operations) - operations.count("SET TBLPROPERTIES") == count
        record = read_record(night / f"work/run_date={DAY}/train.json", Trained)
        assert record
        trained.append((record.result, load_file(record.result.folder / WEIGHTS)))
    (one, alone), (two, together) = trained
    assert (two.best_epoch, two.valid_ndcg_at_10) == (one.best_epoch, one.valid_ndcg_at_10)
    torch.testing.assert_close(
        together["item_embedding.weight"], alone["item_embedding.weight"], rtol=0, atol=1e-5
    )
