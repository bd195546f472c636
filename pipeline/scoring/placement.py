"""Where an item that a user may get stands: among all such items, and in the user's list."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.rules.list_rules import ListRules
from pipeline.rules.new_items import PromotedNew
from pipeline.schema import PAD
from pipeline.scoring.candidate_scorer import CandidateScorer
from pipeline.scoring.list_scorer import ListScorer
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.user_histories import Integers, UserHistories

Scorer = ListScorer | CandidateScorer


@dataclass(frozen=True)
class Placement:
    """Where an item stands for one user.

    Attributes:
        rank: Among all items that the user may get, from 1: by the model, or by popularity for
            a user without a known item. Caps and promotions do not count. None where the user
            may not get it, and for a new item.
        n_ranked: The number of all these items.
        score: The item's.
        popular: Whether the ranking is by popularity.
        place: In the list, from 1; None where it is not listed.
        promotion: The number of the promotion that gave it a slot, from 1.
        caps: The numbers of the caps that keep it out of the list, from 1; none for an item that
            the user may not get.
        n_by_rank: The number of items in the list that have no slot of a promotion or of new items.
        last_score: Of the last of these; None where there is none.
    """

    rank: int | None
    n_ranked: int
    score: float | None
    popular: bool
    place: int | None
    promotion: int | None
    caps: tuple[int, ...]
    n_by_rank: int
    last_score: float | None


def place_item(scorer: Scorer, user: UserHistories, item: int) -> Placement:
    """Find where an item stands for one user.

    Args:
        scorer: Of a run.
        user: The history of one user.
        item: The item's index.

    Raises:
        BundleError: a score is NaN or infinite.
        ConfigError: the device fails.
    """
    scorer = replace(scorer, nearest=None)
    ranked = _ranking(scorer)(user, _no_progress)
    every = _row(ranked)
    listed = scorer(user, _no_progress)
    items = _row(listed)
    by_rank = listed.score[0, : len(items)][~listed.promoted[0, : len(items)]]
    rank, place = _position(every, item), _position(items, item)
    promotion = None
    if rank is not None and place is not None and listed.promoted[0, place - 1]:
        promotion = _promotion(scorer, user, item)
    return Placement(
        rank,
        len(every),
        None if rank is None else float(ranked.score[0, rank - 1]),
        bool(listed.popular[0]),
        place,
        promotion,
        () if place is not None else _caps(scorer, user, every, listed, item),
        len(by_rank),
        float(by_rank[-1]) if len(by_rank) else None,
    )


def _ranking(scorer: Scorer) -> Scorer:
    """The scorer of everything that a user may get, in the order of the scores."""
    return _with_lists(scorer, ListRules((), ()), len(scorer.eligibility.item_bias) - 1)


def _with_lists(scorer: Scorer, lists: ListRules, top_k: int) -> Scorer:
    return scorer.with_rules(replace(scorer.eligibility, lists=lists), top_k)


def _promotion(scorer: Scorer, user: UserHistories, item: int) -> int:
    """The first promotion with which the item is promoted, if later ones are left out."""
    rules = scorer.eligibility.lists
    for number in range(1, len(rules.promotions)):
        fewer = replace(rules, promotions=rules.promotions[:number], new=None)
        ranked = _with_lists(scorer, fewer, scorer.top_k)(user, _no_progress)
        if ((ranked.item_index == item) & ranked.promoted).any():
            return number
    return len(rules.promotions)


def _ranking_of_new(scorer: Scorer, new: PromotedNew) -> Scorer:
    """The scorer of all new items that a user may get, in the order of the scores."""
    every = replace(new, places=tuple(range(len(new.items))))
    return _with_lists(scorer, ListRules((), (), every), len(new.items))


def _caps(
    scorer: Scorer, user: UserHistories, every: Integers, listed: Ranked, item: int
) -> tuple[int, ...]:
    """The caps that the item met when its turn came; none if no place was left for it by then.

    Its turn comes after the promoted items and after those that the ranking has before it; that of
    a new item after the items of promotions and better new ones.
    """
    items, is_new = _row(listed), scorer.eligibility.is_new
    first, n_places = listed.promoted[0, : len(items)], scorer.top_k
    new = scorer.eligibility.lists.new
    if new is not None and is_new[item]:
        every = _row(_ranking_of_new(scorer, new)(user, _no_progress))
        first = first & ~is_new[items]
        n_places = int(first.sum()) + len(new.places)
    if item not in every:
        return ()
    rank = np.full(len(is_new), len(every))
    rank[every] = np.arange(len(every))
    before = items[first | (rank[items] < rank[item])]
    if len(before) == n_places:
        return ()
    caps = enumerate(scorer.eligibility.lists.caps, start=1)
    return tuple(
        number
        for number, cap in caps
        if cap.group[item] >= 0 and (cap.group[before] == cap.group[item]).sum() >= cap.most
    )


def _row(ranked: Ranked) -> Integers:
    """The items of the only user."""
    items = ranked.item_index[0]
    return items[items != PAD]


def _position(items: Integers, item: int) -> int | None:
    """The place of an item from 1; None where it is absent."""
    found = np.flatnonzero(items == item)
    return int(found[0]) + 1 if len(found) else None


def _no_progress(users: int) -> None:
    """Nothing: there is one user."""
