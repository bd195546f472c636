"""The training stage on a small prepared folder: whose weights it begins from, kills, records."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

import model.fit
from pipeline import schema, train
from pipeline.bundle import HELD_OUT_WEIGHTS, WEIGHTS
from pipeline.prepare import ITEMS_FILE, SEQUENCES_FILE, Prepared
from pipeline.settings import ModelSettings, Settings
from pipeline.train import Trained

DAY = date(2026, 11, 2)
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
N_ITEMS = 12


def prepare(folder: Path, length: int = 6) -> Prepared:
    """Users who go round the items, each from another one on."""
    folder.mkdir(parents=True)
    histories = [[(user + step) % N_ITEMS for step in range(length)] for user in range(24)]
    times = [[NOON] * length] * len(histories)
    table = pa.table([range(24), histories, times], names=["user_id", "item_ids", "timestamps"])
    pq.write_table(table.cast(schema.sequences(pa.int64(), pa.int64())), folder / SEQUENCES_FILE)
    items = pa.table(
        [range(1, N_ITEMS + 1), range(N_ITEMS), [1] * N_ITEMS, [NOON] * N_ITEMS],
        names=schema.vocabulary(pa.int64()).names,
    )
    pq.write_table(items.cast(schema.vocabulary(pa.int64())), folder / ITEMS_FILE)
    values: dict[str, Any] = dict.fromkeys(Prepared.__dataclass_fields__, 0)
    values |= {"folder": folder, "n_items": N_ITEMS + 1, "fingerprint": f"of {length}"}
    return Prepared(**values)


def quick(folder: Path, hidden_size: int = 8, **training: Any) -> Settings:
    network = ModelSettings(
        contrast="none", hidden_size=hidden_size, inner_size=8, MAX_ITEM_LIST_LENGTH=6, n_layers=1
    )
    given = {"epochs": 2, "accelerator": "cpu", **training}
    return Settings(
        warehouse=str(folder / "warehouse"), work_dir=folder / "work", model=network, train=given
    )


class Champion:
    """As much of a bundle as training looks at."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.model_version = "yesterday"

    def items(self) -> pa.Table:
        return pa.table({"item_id": range(N_ITEMS)})


@pytest.fixture
def champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Yesterday's weights, as the champion."""
    yesterday = train.train(
        quick(tmp_path / "yesterday"), date(2026, 11, 1), prepare(tmp_path / "yesterday/prepared")
    )
    monkeypatch.setattr(train, "read_champion", lambda settings, before: yesterday.folder)
    monkeypatch.setattr(train.Bundle, "load", lambda path: Champion(path))
    return yesterday.folder


def test_a_finished_run_is_read_back_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, prepared = quick(tmp_path), prepare(tmp_path / "prepared")
    first = train.train(settings, DAY, prepared)
    weights = (first.folder / WEIGHTS).read_bytes()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "fit", never)
    assert train.train(settings, DAY, prepared) == first
    assert (first.folder / WEIGHTS).read_bytes() == weights
    codec = TypeAdapter(Trained)
    assert codec.validate_json(codec.dump_json(first)) == first


def test_without_anybody_to_validate_on_the_result_can_be_recorded(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared", length=2)
    # Two interactions a user: one trained on by the refit, one tested.
    with pytest.raises(train.InputError, match="nothing to train on"):
        train.train(quick(tmp_path), DAY, prepared)


def test_other_histories_are_another_run(tmp_path: Path) -> None:
    settings = quick(tmp_path)
    first = train.train(settings, DAY, prepare(tmp_path / "first"))
    second = train.train(settings, DAY, prepare(tmp_path / "second", length=5))
    assert first.folder != second.folder


def test_the_evaluated_weights_begin_from_the_champions_evaluated_ones(
    tmp_path: Path, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    real = train.fit

    def watched(*args: Any, **options: Any) -> Any:
        starts.append(options["start"].item_embedding.weight.detach().clone())
        return real(*args, **options)

    monkeypatch.setattr(train, "fit", watched)
    trained = train.train(quick(tmp_path), DAY, prepare(tmp_path / "prepared"))
    assert trained.parent == "yesterday"
    for start, name in zip(starts, (HELD_OUT_WEIGHTS, WEIGHTS), strict=True):
        assert torch.equal(start, load_file(champion / name)["item_embedding.weight"])


def test_another_architecture_has_no_parent(
    tmp_path: Path, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = train.train(quick(tmp_path, hidden_size=4), DAY, prepare(tmp_path / "prepared"))
    assert trained.parent is None
    assert "No warm start" in caplog.text


def test_a_checkpoint_cut_short_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = model.fit._WholeCheckpoints()
    io.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")

    def full_disk(self: Any, checkpoint: Any, path: Path, storage_options: Any = None) -> None:
        Path(path).write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.fit.TorchCheckpointIO, "save_checkpoint", full_disk)
    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}


def test_a_vocabulary_numbered_otherwise_has_no_parent(
    tmp_path: Path, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(tmp_path / "prepared")
    items = pq.read_table(prepared.folder / ITEMS_FILE)
    other = items.set_column(
        1, items.schema.field("item_id"), items["item_id"].take([1, 0, *range(2, 12)])
    )
    pq.write_table(other, prepared.folder / ITEMS_FILE)
    assert train.train(quick(tmp_path), DAY, prepared).parent is None
    assert "numbered otherwise" in caplog.text
