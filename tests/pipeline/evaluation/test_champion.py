"""The champion, measured beside a run's own model on the same users and held-out events."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.network.fearec import FEARec
from model.training.weights import save_weights
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, REQUIRED, publish_bundle
from pipeline.bundles.description import BundleDescription, DataSnapshot
from pipeline.config.settings import Settings
from pipeline.errors import BundleError
from pipeline.results import PairedDifference, Prepared, Trained
from pipeline.schema import ITEMS_FILE, vocabulary_schema
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.stages import evaluate

DAY = date(2026, 11, 10)
END = datetime(2026, 11, 11, tzinfo=UTC)
ITEMS = [f"item-{place:02}" for place in range(30)]
USERS = 60


def chosen(model: dict[str, Any] | None = None, **evaluation: Any) -> Settings:
    network = {
        "contrast": "none", "hidden_size": 8, "inner_size": 8, "n_layers": 1,
        "MAX_ITEM_LIST_LENGTH": 6,
    }  # fmt: skip
    return Settings(
        model=network | (model or {}),
        evaluate={"topk": (5, 10), "bootstrap": 20, "test_days": 2, "valid_days": 2} | evaluation,
        train={"eval_batch_size": 7},
    )


def histories(seed: int = 0, items: Sequence[str] = ITEMS) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [list(random.choice(items, random.integers(2, 10), replace=False)) for _ in range(USERS)]


def times(rows: Sequence[Sequence[str]]) -> list[list[datetime]]:
    """One event a day until the run date."""
    return [[END - timedelta(days=len(row) - place, hours=-9) for place in range(len(row))]
            for row in rows]  # fmt: skip


def prepare(folder: Path, rows: Sequence[Sequence[str]], items: Sequence[str] = ITEMS) -> Prepared:
    return write_prepared(folder, rows, times(rows), items)


def network_of(settings: Settings, n_items: int, seed: int) -> FEARec:
    torch.manual_seed(seed)
    network = FEARec(settings.model.config(n_items)).eval()
    with torch.no_grad():
        network.item_embedding.weight.mul_(50)  # so that lists differ by user
    return network


def trained(network: FEARec, folder: Path) -> Trained:
    folder.mkdir()
    save_weights(network, folder / HELD_OUT_WEIGHTS)
    return Trained(folder, 1, 0.1, None, refit=True)


def champion(
    folder: Path,
    network: FEARec,
    items: Sequence[str | int] = ITEMS,
    settings: Settings | None = None,
    last_event: datetime = END - timedelta(days=1),
    *,
    held_out: bool = True,
    metrics: dict[str, Any] | None = None,
) -> Path:
    """A bundle of yesterday; its graphs are of no use, as PyTorch measures the champion."""
    staging = folder / "staging"
    staging.mkdir(parents=True)
    for name in REQUIRED:
        (staging / name).write_bytes(b"of no use here")
    if held_out:
        save_weights(network, staging / HELD_OUT_WEIGHTS)
    kind = pa.array(items).type
    schema = vocabulary_schema(kind)
    columns = [range(1, len(items) + 1), items, [1] * len(items), [END] * len(items)]
    pq.write_table(pa.table(columns, names=schema.names).cast(schema), staging / ITEMS_FILE)
    data = DataSnapshot(
        interactions_version=0, first_event=last_event, last_event=last_event, n_users=USERS,
        n_items=len(items), n_interactions=1,
    )  # fmt: skip
    description = BundleDescription(
        model_version="yesterday", created_at=END, data=data, metrics=metrics or {}, refit=True,
        parity={}, settings=(settings or chosen()).model_dump(mode="json"), versions={},
        hyper_parameters=network.config.model_dump(mode="json"),
    )  # fmt: skip
    return publish_bundle(staging, folder / "yesterday", description).path


@pytest.fixture
def tonight(tmp_path: Path) -> Prepared:
    return prepare(tmp_path / "prepared", histories())


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
def test_the_same_weights_differ_in_nothing(split: str, tonight: Prepared, tmp_path: Path) -> None:
    settings = chosen(split=split)
    network = network_of(settings, len(ITEMS) + 1, seed=1)
    found = evaluate(
        settings, DAY, tonight, trained(network, tmp_path / "train"),
        champion(tmp_path / "models", network, settings=settings),
    )  # fmt: skip
    assert found.champion == found.model
    assert found.intervals["champion"] == found.intervals["model"]
    assert found.differences["champion"] == PairedDifference(0, 0, 0)
    assert (found.champion_version, found.not_compared) == ("yesterday", None)
    assert found.champion_n_items == found.n_items == len(ITEMS) + 1
    for name in ("popularity", "co_occurrence"):
        difference = found.differences[name]
        assert difference.low <= difference.mean <= difference.high
        baseline = getattr(found, name)["NDCG@10"]
        assert difference.mean == pytest.approx(found.model["NDCG@10"] - baseline)


def test_items_are_matched_by_their_ids(tonight: Prepared, tmp_path: Path) -> None:
    network = network_of(chosen(), len(ITEMS) + 1, seed=1)
    order = np.random.default_rng(3).permutation(len(ITEMS))
    other = network_of(chosen(), len(ITEMS) + 1, seed=1)
    with torch.no_grad():
        other.item_embedding.weight[1:] = network.item_embedding.weight[1 + torch.tensor(order)]
    shuffled = [ITEMS[place] for place in order]
    found = evaluate(
        chosen(), DAY, tonight, trained(network, tmp_path / "train"),
        champion(tmp_path / "models", other, shuffled),
    )  # fmt: skip
    names = [name for name in found.model if name.startswith(("NDCG", "HR", "MRR", "Coverage"))]
    assert {name: found.champion[name] for name in names} == pytest.approx(
        {name: found.model[name] for name in names}
    )
    assert found.differences["champion"] == PairedDifference(0, 0, 0)


@pytest.mark.parametrize(
    "other", [{"MAX_ITEM_LIST_LENGTH": 3}, {"MAX_ITEM_LIST_LENGTH": 9, "hidden_size": 4}]
)
def test_another_architecture_has_its_own_metrics(
    other: dict[str, int], tonight: Prepared, tmp_path: Path
) -> None:
    """Those of that network measured alone; and the difference is the other way about."""
    settings, before = chosen(), chosen(other)
    mine = network_of(settings, len(ITEMS) + 1, seed=1)
    its = network_of(before, len(ITEMS) + 1, seed=2)
    ours, theirs = (
        trained(network, tmp_path / name) for network, name in ((mine, "a"), (its, "b"))
    )
    found = evaluate(settings, DAY, tonight, ours, champion(tmp_path / "models", its))
    alone = evaluate(before, DAY, tonight, theirs)
    assert found.champion == pytest.approx(alone.model)
    back = evaluate(before, DAY, tonight, theirs, champion(tmp_path / "back", mine))
    difference, other_way = found.differences["champion"], back.differences["champion"]
    assert difference.mean == pytest.approx(-other_way.mean)
    assert difference.mean == pytest.approx(found.model["NDCG@10"] - alone.model["NDCG@10"])
    assert difference.low < difference.mean < difference.high


@pytest.mark.parametrize("mask_seen", [True, False])
def test_items_that_the_champion_does_not_know(
    mask_seen: bool, tonight: Prepared, tmp_path: Path
) -> None:
    """One user at a time: they are not in its histories or lists, and missed in the test."""
    settings = chosen(mask_seen=mask_seen)
    known = ITEMS[::-1][:18]
    its = network_of(settings, len(known) + 1, seed=2)
    found = evaluate(
        settings, DAY, tonight,
        trained(network_of(settings, len(ITEMS) + 1, seed=1), tmp_path / "train"),
        champion(tmp_path / "models", its, known),
    )  # fmt: skip
    index = {item: place for place, item in enumerate(known, start=1)}
    rows = histories()
    counts = np.zeros(len(known) + 1)
    for row in rows:
        for item in row[: max(len(row) - 2, 1)]:  # what training knows; of two items, the first
            counts[index.get(item, 0)] += 1
    gains, strangers = [], 0
    for *before, target in rows:
        seen = [index[item] for item in before if item in index]
        strangers += not seen
        if seen:
            window = seen[-6:]
            item_seq = torch.tensor([window + [0] * (6 - len(window))])
            with torch.no_grad():
                output = its(item_seq, torch.tensor([len(window)]))
                scores = (output @ its.item_embedding.weight.T)[0].numpy().copy()
            scores[seen if mask_seen else []] = -np.inf
        else:
            scores = counts.copy()
        order = sorted(range(1, len(known) + 1), key=lambda item: (-scores[item], item))
        place = order.index(index[target]) + 1 if target in index else math.inf
        gains.append(1 / math.log2(place + 1) if place <= 10 else 0.0)
    assert strangers
    assert found.champion["NDCG@10"] == pytest.approx(np.mean(gains))
    assert found.champion_n_items == len(known) + 1
    assert found.n_items == len(ITEMS) + 1


def test_a_champion_with_a_smaller_catalogue_than_the_lists(
    tonight: Prepared, tmp_path: Path
) -> None:
    known = ITEMS[:4]
    its = network_of(chosen(), len(known) + 1, seed=2)
    found = evaluate(
        chosen(), DAY, tonight,
        trained(network_of(chosen(), len(ITEMS) + 1, seed=1), tmp_path / "train"),
        champion(tmp_path / "models", its, known),
    )  # fmt: skip
    assert found.champion["HR@5"] == found.champion["HR@10"]
    assert found.champion["Coverage@10"] == 1


@pytest.mark.parametrize(
    ("before", "given", "words"),
    [
        (chosen(split="time"), {}, "under another split"),
        (
            Settings(prepare={"item_inter_num_interval": "[5,inf)"}),
            {},
            "`\\[prepare\\]` has changed",
        ),
        (chosen(), {"last_event": END + timedelta(days=1)}, "up to 2026-11-12 00:00 UTC"),
        (chosen(), {"held_out": False}, "lacks the weights from before its refit"),
        (chosen(), {"items": range(1, 31)}, "another type \\(int64 instead of string\\)"),
    ],
)
def test_a_champion_that_cannot_be_compared_fairly(
    before: Settings, given: dict[str, Any], words: str, tonight: Prepared, tmp_path: Path
) -> None:
    network = network_of(chosen(), len(ITEMS) + 1, seed=1)
    bundle = champion(tmp_path / "models", network, settings=before, **given)
    found = evaluate(chosen(), DAY, tonight, trained(network, tmp_path / "train"), bundle)
    assert found.champion == {}
    assert "champion" not in found.differences
    assert set(found.differences) == {"popularity", "co_occurrence"}
    assert found.champion_version == "yesterday"
    assert found.not_compared is not None

    assert re.search(words, found.not_compared)


def test_a_damaged_champion_is_refused(tonight: Prepared, tmp_path: Path) -> None:
    network = network_of(chosen(), len(ITEMS) + 1, seed=1)
    bundle = champion(tmp_path / "models", network)
    (bundle / HELD_OUT_WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(BundleError, match="wrong checksum"):
        evaluate(chosen(), DAY, tonight, trained(network, tmp_path / "train"), bundle)


def test_scores_that_are_not_finite_are_counted(tonight: Prepared, tmp_path: Path) -> None:
    network = network_of(chosen(), len(ITEMS) + 1, seed=1)
    last = len(ITEMS) - 1
    with torch.no_grad():
        network.item_embedding.weight[last + 1] = math.nan
    found = evaluate(chosen(), DAY, tonight, trained(network, tmp_path / "train"))
    assert found.n_not_finite == found.n_served == USERS  # every list ranks that item
    assert all(map(math.isfinite, found.model.values()))  # its metrics do not show it


def test_intervals_for_the_gate_do_not_need_evaluate_bootstrap(
    tonight: Prepared, tmp_path: Path
) -> None:
    network = network_of(chosen(), len(ITEMS) + 1, seed=1)
    mine = trained(network, tmp_path / "train")
    few, none = (evaluate(chosen(bootstrap=count), DAY, tonight, mine) for count in (20, 0))
    assert none.intervals == {"model": {}, "popularity": {}, "co_occurrence": {}}
    assert few.differences == none.differences


@pytest.mark.parametrize(
    ("before", "metrics", "then"),
    [
        (chosen(), {"model": {"NDCG@10": 0.4, "NDCG@5": 0.3}}, 0.4),
        (chosen(), {"model": {"NDCG@5": 0.3}}, None),
        (chosen(), {}, None),
        (chosen(mask_seen=False), {"model": {"NDCG@10": 0.4}}, None),
    ],
)
def test_what_the_champion_had_on_its_own_run_date(
    before: Settings, metrics: dict[str, Any], then: float | None, tonight: Prepared,
    tmp_path: Path,
) -> None:  # fmt: skip
    network = network_of(chosen(), len(ITEMS) + 1, seed=1)
    bundle = champion(tmp_path / "models", network, settings=before, metrics=metrics)
    found = evaluate(chosen(), DAY, tonight, trained(network, tmp_path / "train"), bundle)
    assert found.champion_then == then
    low, high = found.headline_interval
    assert low < found.model["NDCG@10"] < high
