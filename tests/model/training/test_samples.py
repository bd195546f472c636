"""Samples over flat histories: same-target partners, negatives, shuffled batches."""

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import FEARecConfig
from model.training.histories import EventHistories
from model.training.samples import (
    Negatives,
    SameTarget,
    ShuffledBatches,
    TrainingSet,
    drop_items,
)
from tests.helpers.event_histories import histories_of, prefix, targets_of, users_of_items

# Same-target partners


def partners_of(users: list[list[int]], length: int, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions int64 (S,) in the samples' order, targets (S,), partners (draws, S)."""
    histories = histories_of(users)
    positions = targets_of(histories)
    order, same_target = SameTarget.build(histories, positions, length)
    assert order.sort().values.equal(torch.arange(len(positions)))
    positions = positions[order]
    samples = torch.arange(len(positions))
    item_id = histories.items[positions].long()
    drawn = torch.stack([same_target.sample(samples, item_id) for _ in range(draws)])
    return positions, item_id, drawn


@given(users_of_items, st.integers(1, 4))
@settings(max_examples=60)
def test_a_partner_has_the_target_and_another_sequence_where_one_exists(
    users: list[list[int]], length: int
) -> None:
    positions, item_id, drawn = partners_of(users, length, draws=20)
    windows = [tuple(prefix(users, p)[-length:]) for p in positions.tolist()]
    for i, window in enumerate(windows):
        found = {windows[j] for j in drawn[:, i].tolist()}
        others = {w for w, t in zip(windows, item_id, strict=True) if t == item_id[i]} - {window}
        assert item_id[drawn[:, i]].eq(item_id[i]).all()
        if others:
            assert found <= others
        else:
            assert drawn[:, i].eq(i).all()


def chi_square(counts: np.ndarray[Any, Any]) -> float:
    """Of counts expected to be equal, in standard deviations of its distribution."""
    expected = counts.sum() / len(counts)
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def test_partners_are_uniform_over_the_targets_other_sequences() -> None:
    # Target 9 after 1..6 once each, and after 7 three times.
    users = [[i, 9] for i in (1, 2, 3, 4, 5, 6, 7, 7, 7)]
    torch.manual_seed(0)
    positions, _, drawn = partners_of(users, 5, draws=6000)
    windows = [prefix(users, p)[-1] for p in positions.tolist()]
    for i, own in enumerate(windows):
        counts = np.bincount(drawn[:, i].numpy(), minlength=len(windows))
        others = [j for j, window in enumerate(windows) if window != own]
        assert counts[others].sum() == 6000
        assert chi_square(counts[others]) < 5


def test_a_lone_sample_is_its_own_partner() -> None:
    positions, _, drawn = partners_of([[1, 2, 3]], 5, draws=3)
    assert drawn.equal(torch.arange(len(positions)).expand(3, -1))


def test_equal_sequences_of_one_target_are_their_own_only_without_others() -> None:
    _, _, drawn = partners_of([[1, 2], [1, 2], [1, 2]], 5, draws=50)
    assert drawn.equal(torch.arange(3).expand(50, -1))


def test_the_window_not_the_whole_history_says_whether_sequences_are_equal() -> None:
    # The last two items are equal, an earlier one is not: at length 2 they are one sequence.
    users = [[1, 5, 6, 9], [2, 5, 6, 9], [3, 9]]
    positions, item_id, drawn = partners_of(users, 2, draws=100)
    of_nine = [i for i in range(len(positions)) if item_id[i] == 9]
    windows = {i: prefix(users, int(positions[i]))[-2:] for i in of_nine}
    for i in of_nine:
        found = {tuple(windows[j]) for j in drawn[:, i].tolist()}
        assert found == ({(3,)} if windows[i] == [5, 6] else {(5, 6)})


def test_a_batch_holds_what_its_configuration_needs() -> None:
    histories = histories_of([[1, 2, 3, 4], [2, 3, 1, 4], [5, 4]])
    positions = targets_of(histories)
    samples = torch.tensor([0, 3, 5])

    def batch(**changes: Any) -> Any:
        config = FEARecConfig(n_items=9, MAX_ITEM_LIST_LENGTH=3, **changes)
        return TrainingSet(histories, positions, config)[samples]

    plain = batch()
    assert plain.item_seq.shape == (3, 3)
    assert plain.neg_item_id is plain.same_target_seq is plain.same_target_len is None
    assert batch(contrast="un").same_target_seq is None
    for contrast in ("su", "us", "us_x"):
        assert batch(contrast=contrast).same_target_seq.shape == (3, 3)
    assert batch(loss_type="BPR", sample_num=4).neg_item_id.shape == (3, 4)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1), st.floats(0, 0.9))
def test_items_left_out_leave_the_others_in_order(rows: list[list[int]], share: float) -> None:
    item_seq = torch.tensor([row + [0] * (6 - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    found, found_lengths = drop_items(item_seq, lengths, share)
    for row, left, length in zip(rows, found.tolist(), found_lengths.tolist(), strict=True):
        assert 1 <= length <= len(row)
        assert left[length:] == [0] * (6 - length)
        assert 0 not in left[:length]
        rest = iter(row)
        assert all(item in rest for item in left[:length])  # a subsequence
    if not share:
        assert torch.equal(found, item_seq)


def test_the_share_of_items_left_out_is_as_asked_for() -> None:
    torch.manual_seed(0)
    item_seq = torch.arange(1, 21).repeat(5000, 1)
    _, lengths = drop_items(item_seq, torch.full((5000,), 20), 0.3)
    assert float(lengths.double().mean()) == pytest.approx(20 - 19 * 0.3, abs=0.1)


def test_training_sequences_and_partners_leave_items_out() -> None:
    histories = histories_of([[1, 2, 3, 4, 5, 6]] * 30 + [[6, 5, 4, 3, 2, 1]] * 30)
    positions = targets_of(histories)
    config = FEARecConfig(n_items=9, MAX_ITEM_LIST_LENGTH=5, contrast="su")
    whole = TrainingSet(histories, positions, config)[torch.arange(len(positions))]
    torch.manual_seed(0)
    found = TrainingSet(histories, positions, config, 0.5)[torch.arange(len(positions))]
    assert torch.equal(found.item_id, whole.item_id)
    assert (found.item_seq_len <= whole.item_seq_len).all()
    assert found.item_seq_len.sum() < 0.8 * whole.item_seq_len.sum()
    assert found.same_target_len is not None
    assert whole.same_target_len is not None
    assert found.same_target_len.sum() < 0.8 * whole.same_target_len.sum()


@given(users_of_items)
@settings(max_examples=40)
def test_samples_are_windows_targets_and_partners_together(users: list[list[int]]) -> None:
    histories = histories_of(users)
    positions = targets_of(histories)
    config = FEARecConfig(n_items=7, MAX_ITEM_LIST_LENGTH=4, contrast="us_x", loss_type="BPR")
    samples = TrainingSet(histories, positions, config)
    assert len(samples) == len(positions)
    found = samples[torch.arange(len(positions))]
    pairs = Counter(
        (tuple(items), int(target))
        for items, target in zip(found.item_seq.tolist(), found.item_id, strict=True)
    )
    expected: Counter[tuple[tuple[int, ...], int]] = Counter()
    for items in users:
        for end in range(1, len(items)):
            window = items[:end][-4:]
            expected[(tuple(window + [0] * (4 - len(window))), items[end])] += 1
    assert pairs == expected
    assert found.same_target_seq is not None
    assert found.same_target_len is not None
    partners = zip(found.same_target_seq.tolist(), found.item_id.tolist(), strict=True)
    assert {(tuple(items), target) for items, target in partners} <= set(expected)
    assert found.same_target_len.equal((found.same_target_seq > 0).sum(1))


# Negatives


@given(users_of_items, st.integers(7, 9), st.integers(1, 5))
@settings(max_examples=60)
def test_negatives_are_items_the_user_never_met(
    users: list[list[int]], n_items: int, count: int
) -> None:
    histories = histories_of(users)
    positions = torch.arange(len(histories.items))
    negatives = Negatives.build(histories, n_items)
    drawn = negatives.sample(histories, positions, count)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (len(positions), count)
    owners = [items for items in users for _ in items]
    for items, row in zip(owners, drawn.tolist(), strict=True):
        unmet = set(range(1, n_items)) - set(items)
        assert set(row) <= (unmet or set(range(1, n_items)))


@pytest.mark.parametrize("met", [[3], [1, 2, 2, 4], [1, 10], [10, 9, 8, 2, 1]])
def test_negatives_are_uniform(met: list[int]) -> None:
    histories = histories_of([[5, 6], met, [7]])
    negatives = Negatives.build(histories, 11)
    torch.manual_seed(1)
    drawn = negatives.sample(histories, torch.tensor([2]), 20000)
    counts = np.bincount(drawn.flatten().numpy(), minlength=11)
    unmet = sorted(set(range(1, 11)) - set(met))
    assert counts[unmet].sum() == 20000
    assert chi_square(counts[unmet]) < 5


# Shuffling


@given(st.integers(1, 60), st.integers(1, 13), st.integers(0, 2**31), st.integers(0, 5))
def test_an_epoch_is_every_sample_once(
    samples: int, batch_size: int, seed: int, epoch: int
) -> None:
    batches = ShuffledBatches(samples, batch_size, seed)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert all(len(batch) == batch_size for batch in drawn[:-1])
    assert sorted(torch.cat(drawn).tolist()) == list(range(samples))


def test_epochs_differ_and_repeat_themselves() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = ShuffledBatches(100, 8, seed)
        batches.set_epoch(epoch)
        return [int(i) for i in torch.cat(list(batches))]

    assert order(1, 0) == order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 1) != list(range(100))


@pytest.mark.parametrize(("samples", "batch_size"), [(24, 8), (25, 8), (27, 8), (3, 8)])
def test_processes_share_every_batch_and_none_is_left_empty(
    monkeypatch: pytest.MonkeyPatch, samples: int, batch_size: int
) -> None:
    world = 4
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares.append(list(ShuffledBatches(samples, batch_size, 0)))
    assert {len(share) for share in shares} == {-(-samples // batch_size)}
    assert all(len(part) for share in shares for part in share)
    together = [int(i) for share in shares for part in share for i in part]
    assert set(together) == set(range(samples))
    # Only a last batch that is smaller than the processes are many is given out twice.
    assert len(together) < samples + world


# Memory and time


def synthetic(users: int, per_user: int, n_items: int) -> EventHistories:
    """Popularity as a power law, as logs have it."""
    generator = np.random.default_rng(0)
    items = 1 + (n_items - 1) * generator.random(users * per_user) ** 3
    return EventHistories(
        torch.from_numpy(items.astype(np.int32)),
        torch.arange(0, users * per_user + 1, per_user),
    )


def tensors_in(held: object) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    return [found for part in getattr(held, "__dict__", {}).values() for found in tensors_in(part)]


def bytes_an_interaction(
    histories: EventHistories, positions: Tensor, config: FEARecConfig
) -> float:
    samples = TrainingSet(histories, positions, config)
    batches = ShuffledBatches(len(samples), 256, 0)
    shuffle = next(iter(batches)).untyped_storage().nbytes()
    held = {part.data_ptr(): part.untyped_storage().nbytes() for part in tensors_in(samples)}
    return (sum(held.values()) + shuffle) / len(histories.items)


@pytest.mark.parametrize("changes", [{}, {"contrast": "none"}])
def test_the_paper_preset_holds_at_most_16_bytes_an_interaction(changes: dict[str, Any]) -> None:
    histories = synthetic(users=4000, per_user=50, n_items=1000)
    config = FEARecConfig.from_preset("paper", n_items=1000, **changes)
    assert 12 <= bytes_an_interaction(histories, targets_of(histories), config) <= 16


@pytest.mark.slow
def test_20_million_interactions_start_in_30_seconds() -> None:
    histories = synthetic(users=400_000, per_user=50, n_items=200_000)
    positions = targets_of(histories)
    config = FEARecConfig.from_preset("paper", n_items=200_000)
    started = time.perf_counter()
    samples = TrainingSet(histories, positions, config)
    batches = iter(ShuffledBatches(len(samples), 256, 0))
    first = samples[next(batches)]
    assert time.perf_counter() - started < 30
    assert first.item_seq.shape == (256, 50)
    assert bytes_an_interaction(histories, positions, config) <= 16
