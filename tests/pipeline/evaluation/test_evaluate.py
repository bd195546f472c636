"""The evaluation, against lists made one user at a time; of PyTorch weights and of bundles."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from model.export.graphs import export_both
from model.network.fearec import FEARec
from model.ranking import metrics_at
from model.training.histories import EventHistories
from model.training.lightning_module import rank_positions
from model.training.weights import save_weights
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, ITEMS, WEIGHTS, Bundle, publish_bundle
from pipeline.bundles.description import BundleDescription, DataSnapshot
from pipeline.config.sections import ModelSettings
from pipeline.config.settings import Settings
from pipeline.data.prepared import read_histories
from pipeline.data.splits import EventKinds, Split, leave_one_out
from pipeline.engines.base import WorkerDiedError
from pipeline.errors import ConfigError, InputError, MemoryShortError, SchemaError
from pipeline.evaluation.baselines import CoOccurrence, Popularity
from pipeline.evaluation.evaluator import RankerGroup, RankingProtocol, evaluate_rankers
from pipeline.evaluation.metrics import user_metrics
from pipeline.evaluation.rankers import ByScores, UserInputs
from pipeline.results import Evaluated, Prepared, Trained
from pipeline.schema import ITEMS_FILE
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.stages import evaluate, evaluate_bundle

DAY = date(2026, 11, 10)
END = datetime(2026, 11, 11, tzinfo=UTC)
V = 9
TOPK = (1, 3, 5)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """Histories cut anywhere, some with nothing before the test, some with unknown items in it."""
    users = draw(st.lists(st.lists(st.integers(1, V - 1), max_size=8), min_size=1, max_size=9))
    valid, test, flat = [], [], []
    for items in users:
        cuts = sorted(draw(st.tuples(*[st.integers(0, len(items))] * 2)))
        valid.append(len(flat) + cuts[0])
        test.append(len(flat) + cuts[1])
        beyond = [draw(st.sampled_from([item, V, V + 1])) for item in items[cuts[1] :]]
        flat += items[: cuts[1]] + beyond
    offsets = torch.tensor([0, *(len(items) for items in users)]).cumsum(0)
    histories = EventHistories(torch.tensor(flat, dtype=torch.int32), offsets)
    split = Split(histories, torch.tensor(valid), torch.tensor(test))
    if not draw(st.booleans()):
        return split
    types = st.lists(st.integers(0, 2), min_size=len(flat), max_size=len(flat))
    index = torch.tensor(draw(types), dtype=torch.int16)
    histories = replace(histories, is_input=index != 1, is_seen=index != 2)
    kinds = EventKinds(index, pa.array(["buy", "view"]))
    return replace(split, histories=histories, is_target=index > 0, kinds=kinds)


def by_last_item(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """A model whose scores, with ties, follow from the last item and the length."""
    last = item_seq.gather(1, item_seq_len[:, None] - 1)
    return ((last * 7 + torch.arange(V) * 5) % 4 + item_seq_len[:, None]).float()


def only(split: Split, mask: Tensor | None, begin: int, end: int) -> list[int]:
    """The items of a range of which a mask is true."""
    chosen = torch.arange(begin, end)
    chosen = chosen if mask is None else chosen[mask[begin:end]]
    return split.histories.items[chosen].tolist()


def a_user_at_a_time(
    split: Split, ranking: RankingProtocol, popularity: Popularity, targets: Tensor | None
) -> dict[str, Any]:
    """The figures of `by_last_item` and the coverage, by plain sorts, of some of the events."""
    hits, n_relevant, lists = [], [], []
    for user in range(len(split.ends)):
        begin, cut, end = (int(at[user]) for at in (split.begins, split.test_from, split.ends))
        before = only(split, split.histories.is_seen, begin, cut)
        inputs = only(split, split.histories.is_input, begin, cut)
        relevant = set(only(split, targets, cut, end))
        if not relevant:
            continue
        scores = [float(count) for count in popularity.counts]
        if inputs:
            window = inputs[-ranking.length :]
            row = torch.tensor([window + [0] * (ranking.length - len(window))])
            scores = by_last_item(row, torch.tensor([len(window)]))[0].tolist()
        # Who has no input gets the most popular items, whatever was seen.
        hidden = {0} | (set(before) if ranking.mask_seen and inputs else set())
        order = sorted(set(range(V)) - hidden, key=lambda item: (-scores[item], item))
        best = (order + [0] * V)[: max(ranking.topk)]
        lists.append(best)
        hits.append([item in relevant for item in best])
        n_relevant.append(len(relevant))
    figures = user_metrics(torch.tensor(hits), torch.tensor(n_relevant), ranking.topk)
    found = {name: float(values.mean()) for name, values in figures.items()}
    for k in ranking.topk:
        listed = {item for best in lists for item in best[:k]} - {0}
        found[f"Coverage@{k}"] = len(listed) / (V - 1)
        every = [item for best in lists for item in best[:k] if item]
        most = max(map(every.count, every), default=0)
        found[f"MostListed@{k}"] = most / len(lists)
    return found


@given(splits(), st.booleans(), st.integers(1, 20))
@tuned(max_examples=60)
def test_figures_are_those_of_one_user_at_a_time(
    split: Split, mask_seen: bool, batch_size: int
) -> None:
    if not len(split.tested):
        return
    popularity = Popularity.learn(split.before(split.valid_from), V)
    ranking = RankingProtocol(V, 4, mask_seen, TOPK, batch_size)
    group = RankerGroup({"model": ByScores(by_last_item)}, split, popularity, ranking)
    evaluated = evaluate_rankers(group)
    sums = evaluated.all["model"]
    found = sums.means(popularity.counts)
    expected = a_user_at_a_time(split, ranking, popularity, split.is_target)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    for kind, of_type in evaluated.by_type.items():
        assert split.kinds is not None
        number = 1 + split.kinds.names.to_pylist().index(kind)
        means = of_type["model"].user_means()
        expected = a_user_at_a_time(split, ranking, popularity, split.kinds.index == number)
        assert means == pytest.approx({name: expected[name] for name in means})
    whole = evaluate_rankers(replace(group, ranking=replace(ranking, batch_size=99))).all["model"]
    assert whole.means(popularity.counts) == pytest.approx(found)
    assert whole.intervals(50, 1) == sums.intervals(50, 1)
    if mask_seen and split.kinds is None:  # what was met before cannot be hit
        again = [
            set(split.histories.items[cut:end].tolist())
            <= set(split.histories.items[begin:cut].tolist())
            for begin, cut, end in zip(split.begins, split.test_from, split.ends, strict=True)
            if cut < end
        ]
        assert found["HR@5"] <= 1 - np.mean(again) + 1e-9


@given(splits(), st.integers(1, V - 1), st.data())
def test_baselines_are_plain_sorts(split: Split, k: int, data: st.DataObject) -> None:
    histories = split.before(split.test_from)
    offsets = histories.offsets.tolist()
    users = [histories.items[a:b].tolist() for a, b in pairwise(offsets)]
    popular = [sum(items.count(item) for items in users) for item in range(V)]
    followed = np.zeros((V, V), int)
    for items in users:
        for one, next_one in pairwise(items):
            followed[one, next_one] += 1
    popularity = Popularity.learn(histories, V)
    item_seq = torch.tensor([[3, last, 0] for last in range(1, V)])
    some = st.lists(st.integers(1, V - 1), max_size=2 * V)
    seen = data.draw(st.lists(some, min_size=V - 1, max_size=V - 1) | st.none())
    pairs = [(row, item) for row, items in enumerate(seen or []) for item in items]
    given_users = UserInputs(
        item_seq,
        torch.full((V - 1,), 2),
        None if seen is None else (
            torch.tensor([row for row, _ in pairs], dtype=torch.int64),
            torch.tensor([item for _, item in pairs], dtype=torch.int64),
        ),
    )  # fmt: skip
    plain = popularity(given_users, k).items.tolist()
    found = CoOccurrence.learn(histories, popularity)(given_users, k).items.tolist()
    for last in range(1, V):
        allowed = set(range(1, V)) - set(seen[last - 1] if seen else ())
        by_popularity = sorted(allowed, key=lambda item: (-popular[item], item))
        assert plain[last - 1] == (by_popularity + [0] * V)[:k]
        wanted = sorted(by_popularity, key=lambda item: -followed[last, item])
        assert found[last - 1] == (wanted + [0] * V)[:k]


def test_lost_workers_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class LosingEngine:
        def results(self, parts: Any, progress: Any) -> Any:
            yield from ()
            raise WorkerDiedError("3 workers were lost by one part: its memory ran out")

    monkeypatch.setattr(
        "pipeline.evaluation.evaluator.opened_engine", lambda *_: nullcontext(LosingEngine())
    )
    items = torch.arange(1, 5, dtype=torch.int32)
    split = Split(EventHistories(items, torch.tensor([0, 4])), torch.tensor([2]), torch.tensor([3]))
    popularity = Popularity.learn(split.histories, V)
    group = RankerGroup({"p": popularity}, split, popularity, RankingProtocol(V, 4, True, TOPK, 9))
    with pytest.raises(MemoryShortError, match=r"Ray cluster; found 3 workers .*eval_batch_size"):
        evaluate_rankers(group)


# From here on: prepared folders, weights and bundles.


def items_of(user: int, length: int = 7) -> list[str]:
    return [f"item-{(user * 5 + step * (1 + user % 3)) % 20:02d}" for step in range(length)]


def times_of(user: int, length: int = 7) -> list[datetime]:
    """One event a day until the run date; every fourth user begins on the last day but one."""
    if user % 4 == 3:
        return [END - timedelta(hours=30 - 4 * step) for step in range(length)]
    return [END - timedelta(days=length - step, hours=-12) for step in range(length)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("night") / "prepared"
    users = range(40)
    return write_prepared(folder, [items_of(user) for user in users], [*map(times_of, users)])


def chosen(**evaluate: Any) -> Settings:
    network = ModelSettings(
        contrast="none", hidden_size=8, inner_size=8, MAX_ITEM_LIST_LENGTH=6, n_layers=1
    )
    defaults = {"topk": (5, 10), "bootstrap": 20, "test_days": 2, "valid_days": 2}
    return Settings(
        model=network, evaluate={**defaults, **evaluate}, score={"provider": "cpu"},
        train={"eval_batch_size": 7},
    )  # fmt: skip


@pytest.fixture(scope="module")
def network(prepared: Prepared) -> FEARec:
    torch.manual_seed(3)
    return FEARec(chosen().model.config(prepared.n_items)).eval()


@pytest.fixture(scope="module")
def trained(network: FEARec, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    save_weights(network, folder / HELD_OUT_WEIGHTS)
    return Trained(folder, 1, 0.1, None, refit=False)


def described(prepared: Prepared, settings: Settings, **changes: Any) -> BundleDescription:
    values: dict[str, Any] = {
        "model_version": "tonight",
        "created_at": END,
        "settings": settings.model_dump(mode="json"),
        "hyper_parameters": settings.model.config(prepared.n_items).model_dump(mode="json"),
        "data": DataSnapshot(
            interactions_version=0,
            first_event=prepared.first_event,
            last_event=prepared.last_event,
            n_users=prepared.n_users,
            n_items=prepared.n_items - 1,
            n_interactions=prepared.n_interactions,
        ),
        "metrics": {},
        "refit": False,
        "parity": {},
        "versions": {},
    }
    return BundleDescription(**{**values, **changes})


@pytest.fixture(scope="module")
def bundle(network: FEARec, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("models")
    staging = folder / "staging"
    staging.mkdir()
    export_both(network, staging)
    save_weights(network, staging / WEIGHTS)
    (staging / ITEMS).write_bytes((prepared.folder / ITEMS_FILE).read_bytes())
    return publish_bundle(staging, folder / "tonight", described(prepared, chosen()))


def redescribed(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, description=bundle.description.model_copy(update=changes))


@pytest.mark.parametrize("mask_seen", [True, False])
def test_leave_one_out_figures_are_those_of_the_ranks(
    prepared: Prepared, trained: Trained, network: FEARec, mask_seen: bool
) -> None:
    found = evaluate(chosen(mask_seen=mask_seen), DAY, prepared, trained)
    histories = read_histories(prepared.folder)
    last = histories.offsets[1:] - 1
    with torch.inference_mode():
        ranks = rank_positions(network, histories, last, mask_seen)
    expected = metrics_at(ranks, (5, 10))
    assert {name: found.model[name] for name in expected} == pytest.approx(expected)
    assert found.n_users == found.n_served == 40
    assert list(found.model) == list(found.popularity) == list(found.co_occurrence)
    assert found.model["Recall@10"] == found.model["HR@10"]
    for side in ("model", "popularity", "co_occurrence"):
        for name, (low, high) in found.intervals[side].items():
            assert low <= getattr(found, side)[name] <= high
    assert f"seen items {'masked' if mask_seen else 'kept'}" in found.protocol
    assert found.protocol.startswith("leave-one-out (last item), full ranking")
    assert "95% intervals from 20 resamples of users, seed 2020" in found.protocol
    codec = TypeAdapter(Evaluated)
    assert codec.validate_json(codec.dump_json(found)) == found


def test_the_baselines_learn_from_training_alone(prepared: Prepared, trained: Trained) -> None:
    found = evaluate(chosen(bootstrap=0), DAY, prepared, trained)
    assert found.intervals == {"model": {}, "popularity": {}, "co_occurrence": {}}
    assert "intervals" not in found.protocol
    split = leave_one_out(read_histories(prepared.folder))
    known = split.before(split.valid_from)
    popularity = Popularity.learn(known, prepared.n_items)
    assert int(popularity.counts.sum()) == 40 * 5
    ranking = RankingProtocol(prepared.n_items, 6, True, (5, 10), 100)
    rankers = {"co": CoOccurrence.learn(known, popularity)}
    group = RankerGroup(rankers, split, popularity, ranking)
    with torch.inference_mode():
        expected = evaluate_rankers(group).all["co"].means(popularity.counts)
    assert found.co_occurrence == pytest.approx(expected)
    assert found.popularity["Novelty@5"] <= found.model["Novelty@5"]


def test_a_time_split_asks_for_everything_in_the_window(
    prepared: Prepared, trained: Trained
) -> None:
    found = evaluate(chosen(split="time"), DAY, prepared, trained)
    assert (found.n_users, found.n_served) == (40, 30)  # a quarter came in the window only
    assert found.model["Recall@10"] < found.model["HR@10"]
    assert found.protocol.startswith(
        "time split (test 2026-11-09 to 2026-11-10, validation from 2026-11-07, UTC; "
        "every item of the test is relevant), full ranking"
    )
    with pytest.raises(InputError, match="no event in the days of the test"):
        evaluate(chosen(split="time"), DAY + timedelta(days=30), prepared, trained)


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
@pytest.mark.parametrize("mask_seen", [True, False])
def test_a_bundle_has_the_figures_of_its_weights(
    prepared: Prepared, trained: Trained, bundle: Bundle, split: str, mask_seen: bool
) -> None:
    settings = chosen(split=split, mask_seen=mask_seen)
    honest = redescribed(bundle, settings=settings.model_dump(mode="json"))
    by_torch = evaluate(settings, DAY, prepared, trained)
    by_onnx = evaluate_bundle(settings, DAY, prepared, honest)
    for side in ("model", "popularity", "co_occurrence"):
        assert getattr(by_onnx, side) == pytest.approx(getattr(by_torch, side))
    assert (by_onnx.unknown_seen, by_onnx.unknown_held_out) == (0, 0)
    assert "PyTorch" in by_torch.protocol
    assert "ONNX bundle tonight on CPUExecutionProvider" in by_onnx.protocol
    assert "WARNING" not in by_onnx.protocol


def test_a_bundle_that_knows_the_answers_is_told_of(
    prepared: Prepared, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(known: Bundle, **evaluate: Any) -> str:
        caplog.clear()
        found = evaluate_bundle(chosen(**evaluate), DAY, prepared, known)
        told = caplog.text
        assert ("WARNING: its weights were" in told) == ("WARNING" in found.protocol)
        return found.protocol

    refitted = redescribed(bundle, refit=True)
    assert "refitted on everything up to 2026-11-10 18:00 UTC, which 40 of 40 " in warned(refitted)
    assert "WARNING" not in warned(bundle)
    assert "another split" in warned(bundle, split="time")
    # Yesterday's: of the test, it knows what was before its last event.
    day_before = END - timedelta(days=1)
    data = bundle.description.data.model_copy(update={"last_event": day_before})
    yesterday = redescribed(refitted, data=data)
    assert "WARNING" not in warned(yesterday)
    assert "which 50 of 130 held-out" in warned(yesterday, split="time")
    # With one day to test on it knows nothing of that: the honest use.
    older = data.model_copy(update={"last_event": day_before - timedelta(microseconds=1)})
    assert "WARNING" not in warned(redescribed(refitted, data=older), split="time", test_days=1)
    # A bundle of a later night has learned from what is held out here.
    later = data.model_copy(update={"last_event": END + timedelta(days=2)})
    assert "another split" in warned(redescribed(bundle, data=later))


def test_a_bundle_misses_the_items_it_does_not_know(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Users' histories with unknown items are as those without, but unknown targets stay."""
    known = [f"item{index}" for index in range(1, 41)]
    bundle = make_bundle(tmp_path / "bundle", item_ids=known)
    rng = np.random.default_rng(0)
    plain = [[*rng.choice(known, size=6, replace=False)] for _ in range(30)]
    strange = [[items[0], "new-1", *items[1:5], "new-2", items[5]] for items in plain]
    missed = [[*items[:5], "new-3"] for items in plain[:5]]
    only_new = [["new-1", "new-2"]] * 2
    clean = write_prepared(tmp_path / "clean", plain, items=known)
    dirty = write_prepared(tmp_path / "dirty", [*strange, *missed, *only_new])
    expected = evaluate_bundle(chosen(), DAY, clean, bundle)
    found = evaluate_bundle(chosen(), DAY, dirty, bundle)
    assert (found.unknown_seen, found.unknown_held_out) == (2 * 30 + 2, 5 + 2)
    assert (found.n_users, found.n_served) == (37, 35)
    for name in ("HR@5", "Recall@10", "NDCG@10", "MRR@5", "MAP@10"):
        assert found.model[name] == pytest.approx(expected.model[name] * 30 / 37)


def test_ids_of_another_kind_or_width(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "numbers", item_ids=range(1, 41))
    text = write_prepared(tmp_path / "text", [["1", "2", "3"]])
    with pytest.raises(SchemaError, match="ids of another kind"):
        evaluate_bundle(chosen(), DAY, text, bundle)
    numbers = write_prepared(tmp_path / "ids", [[3, 4, 5], [10**12, 3, 4]])
    found = evaluate_bundle(chosen(), DAY, numbers, bundle)
    assert (found.n_users, found.unknown_seen) == (2, 1)


@pytest.mark.parametrize("k", [(5, 20), (5, 21)])
def test_k_above_the_catalogue_is_refused(
    k: Sequence[int], prepared: Prepared, trained: Trained, bundle: Bundle
) -> None:
    assert prepared.n_items - 1 == 20
    settings = chosen(topk=k)
    if max(k) == 20:
        assert "NDCG@20" in evaluate(settings, DAY, prepared, trained).model
        return
    for refused in (
        lambda: evaluate(settings, DAY, prepared, trained),
        lambda: evaluate_bundle(settings, DAY, prepared, bundle),
    ):
        with pytest.raises(ConfigError, match=r"at most V-1 = 20; found 21") as caught:
            refused()
        assert caught.value.exit_code == 2
