"""Item embeddings to start from: near to each other where the same users chose the items."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.training import item_start
from model.training.histories import EventHistories
from model.training.item_start import start_items

GROUPS = 5  # of ten items each, from which a user takes five, and one from all
V = 10 * GROUPS + 3  # the last two occur nowhere


def histories() -> EventHistories:
    random = np.random.default_rng(0)
    users = [
        [*(1 + user % GROUPS * 10 + random.choice(10, 5, replace=False)), random.integers(1, V - 2)]
        for user in range(400)
    ]
    offsets = torch.arange(0, 6 * len(users) + 1, 6)
    return EventHistories(torch.from_numpy(np.concatenate(users).astype(np.int32)), offsets)


def targets(flat: EventHistories, held_out: int = 0) -> Tensor:
    """All positions but each user's first and last ones."""
    positions = torch.arange(len(flat.items))
    place = positions % 6
    return positions[(place > 0) & (place < 6 - held_out)]


def started(flat: EventHistories, positions: Tensor, **changes: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    network = FEARec(FEARecConfig(**{"n_items": V, "hidden_size": 8, **changes}))
    before = network.item_embedding.weight.detach().clone()
    start_items(network, flat, positions, seed=3)
    return before, network.item_embedding.weight.detach()


def test_items_of_the_same_users_are_near_to_each_other() -> None:
    flat = histories()
    _, rows = started(flat, targets(flat), hidden_size=4)
    cosines = normalize(rows[1 : V - 2]) @ normalize(rows[1 : V - 2]).T
    group = torch.arange(10 * GROUPS) // 10
    same = group[:, None] == group
    assert cosines[same].min() > 0.6
    assert cosines[~same].max() < 0.3
    assert rows[1 : V - 2].norm(dim=1).numpy() == pytest.approx(0.05 * 4**0.5, rel=1e-4)


def test_other_rows_stay_random_and_the_seed_decides() -> None:
    flat = histories()
    before, rows = started(flat, targets(flat))
    same = (rows == before).all(dim=1)
    assert same.nonzero().flatten().tolist() == [0, V - 2, V - 1]
    assert torch.equal(started(flat, targets(flat))[1], rows)


def test_what_is_held_out_is_not_looked_at() -> None:
    flat = histories()
    other = flat.items.clone()
    other[5::6] = V - 1
    known = targets(flat, held_out=1)
    another = EventHistories(other, flat.offsets)
    assert torch.equal(started(flat, known)[1], started(another, known)[1])


def test_of_many_targets_those_of_some_users_count(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = histories()
    all_targets = targets(flat)
    users = all_targets // 6
    monkeypatch.setattr(item_start, "_MOST_TARGETS", len(all_targets) // 4)
    some = started(flat, all_targets)[1]
    monkeypatch.undo()
    assert torch.equal(some, started(flat, all_targets[users % 4 == 0])[1])
    assert not torch.equal(some, started(flat, all_targets)[1])


def test_events_that_are_neither_inputs_nor_targets_are_not_looked_at() -> None:
    """Each user's items at even places are inputs, those at odd places targets, but the last."""
    flat = histories()
    place = torch.arange(len(flat.items)) % 6
    is_input, known = place % 2 == 0, ((place == 1) | (place == 3)).nonzero().squeeze(1)
    typed = EventHistories(flat.items, flat.offsets, is_input)
    rows = started(typed, known)[1]
    before, changed_rows = started(changed(typed, place == 5), known)
    assert torch.equal(changed_rows, rows)
    assert torch.equal(changed_rows[V - 1], before[V - 1])
    assert torch.equal(started(changed(typed, place == 4), known)[1], rows)  # after the last target
    for seen in (0, 1, 2, 3):
        assert not torch.equal(started(changed(typed, place == seen), known)[1], rows)
    blind = EventHistories(flat.items, flat.offsets, is_input & (place != 2))
    rows = started(blind, known)[1]
    assert torch.equal(started(changed(blind, place == 2), known)[1], rows)


def changed(flat: EventHistories, which: Tensor) -> EventHistories:
    """The same with the catalogue's last item in some places, bool (N,)."""
    items = flat.items.masked_fill(which, V - 1)
    return EventHistories(items, flat.offsets, flat.is_input)


@pytest.mark.parametrize("users", [[[1, 2]], [[1, 1, 1]], [[1, 2], [2, 1]], [[1, 2], [3, 4]]])
def test_few_items_and_users_are_no_error(users: list[list[int]]) -> None:
    items = torch.tensor([item for each in users for item in each], dtype=torch.int32)
    offsets = torch.tensor([0, *(len(each) for each in users)]).cumsum(0)
    ends = offsets.tolist()
    positions = torch.cat([torch.arange(a + 1, b) for a, b in pairwise(ends)])
    _, rows = started(EventHistories(items, offsets), positions)
    assert rows.isfinite().all()
