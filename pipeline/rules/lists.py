"""Lists of K items from ranked candidates: promoted items in slots, and caps on groups of items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BundleError
from pipeline.schema import PAD

AHEAD = 1.5  # candidates per place of a list, at first
WIDER = 4  # and so many times more for users to whom they are not enough

Items = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """Items for N users to choose from, best first.

    Attributes:
        item_index: (N, C) int64, C at least 1, each item once per user; then PAD, if the user may
            get no other.
        score: (N, C) float32; float64 where items are ranked by popularity.
        complete: Whether C is the number of all items.
    """

    item_index: Items
    score: Scores
    complete: bool

    @classmethod
    def none(cls, users: int, count: int, *, complete: bool) -> "Candidates":
        """PAD everywhere."""
        item_index = np.full((users, count), PAD, np.int64)
        return cls(item_index, np.full((users, count), -np.inf, np.float32), complete)

    def put(self, users: NDArray[np.intp], item_index: Items, score: Scores) -> None:
        """Put the candidates of some users in their rows."""
        self.item_index[users], self.score[users] = item_index, score

    @property
    def has_more(self) -> NDArray[np.bool_]:
        """(N,) whether a user may get further items."""
        return (self.item_index[:, -1] != PAD) & (not self.complete)


@dataclass(frozen=True)
class Cap:
    """At most so many items of each group in a list.

    Attributes:
        most: The number.
        group: (V,) int64, each item's group from 0, or -1 for an item of none.
        room: The most items of a list that it allows, by what is eligible.
    """

    most: int
    group: Items
    room: int

    @classmethod
    def over(cls, group: Items, most: int, eligible: NDArray[np.bool_]) -> "Cap":
        """The cap on groups of items, of which some are eligible, (V,)."""
        sizes = np.bincount(group[eligible & (group >= 0)])
        free = int((eligible & (group < 0)).sum())
        return cls(most, group, free + int(np.minimum(sizes, most).sum()))


@dataclass(frozen=True)
class Slots:
    """Promoted candidates, and the places that are theirs.

    Attributes:
        places: Places of the list, from 0.
        candidates: The promoted items, ranked among themselves.
    """

    places: tuple[int, ...]
    candidates: Candidates


@dataclass(frozen=True)
class Lists:
    """Lists of at most K items for N users.

    Attributes:
        item_index: (N, K) int64, then PAD.
        score: (N, K) float32, -inf beside PAD.
        promoted: (N, K) bool, whether an item is in a slot of a promotion.
        unsure: (N,) bool, whether further candidates could change the list.
    """

    item_index: Items
    score: Scores
    promoted: NDArray[np.bool_]
    unsure: NDArray[np.bool_]


def fill_lists(
    candidates: Candidates, promotions: Sequence[Slots], caps: Sequence[Cap], top_k: int
) -> Lists:
    """Fill lists, promotions first, in their order.

    Each promotion gives its slots, in order, its best items that are not listed yet and that the
    caps allow. Then every other place, from the top, gets the best candidate of which the same is
    true. A slot without a promoted item is a place like any other. Places that stay empty, as there
    are no more candidates, are closed up.

    A choice depends on the items before it alone. So candidates that are the first C of a longer
    ranking give the longer one's list whenever they suffice to fill it (`Lists.unsure` is false).

    Args:
        candidates: The candidates of all places.
        promotions: The promotions; no place is a slot of two.
        caps: The caps.
        top_k: K.
    """
    lists = _Lists(len(candidates.item_index), top_k, caps)
    unsure = np.zeros(len(candidates.item_index), bool)
    for promotion in promotions:
        free = lists.open(promotion.candidates)
        for place in promotion.places:
            lists.take_best(free, np.full(len(unsure), place))
        is_full = lists.filled()[:, list(promotion.places)].all(axis=1)
        unsure |= ~is_full & promotion.candidates.has_more
    promoted = lists.filled()
    free = lists.open(candidates)
    for _ in range(top_k):
        lists.take_best(free, lists.first_free())
    room = min([top_k, *(cap.room for cap in caps)])
    unsure |= (lists.filled().sum(axis=1) < room) & candidates.has_more
    return Lists(*lists.closed_up(promoted), unsure)


@dataclass(frozen=True)
class _Open:
    """Candidates, and which of them a list may still take.

    Attributes:
        candidates: For N users.
        groups: (N, C) int64 per cap, the candidates' groups.
        allowed: (N, C) bool; what is taken, or no longer allowed, is set to false.
    """

    candidates: Candidates
    groups: tuple[Items, ...]
    allowed: NDArray[np.bool_]


class _Lists:
    """Lists that are being filled, one item per user at a time."""

    def __init__(self, users: int, top_k: int, caps: Sequence[Cap]) -> None:
        self._item = np.full((users, top_k), PAD, np.int64)
        self._score = np.full((users, top_k), -np.inf, np.float32)
        self._caps = caps

    def open(self, candidates: Candidates) -> _Open:
        """Candidates without what is listed already, or what the caps no longer allow."""
        item = candidates.item_index
        groups = tuple(cap.group[item] for cap in self._caps)
        free = _Open(candidates, groups, item != PAD)
        for listed in self._item.T:
            users = (listed != PAD).nonzero()[0]
            if len(users):
                free.allowed[users] &= item[users] != listed[users, None]
                self._close_full_groups(free, users, listed[users])
        return free

    def take_best(self, free: _Open, place: Items) -> None:
        """Put each user's best free candidate, if there is one, at a place of the list.

        Args:
            free: The candidates; what was not allowed once never is again.
            place: (N,), -1 for none.
        """
        column = free.allowed.argmax(axis=1)
        is_free = free.allowed[np.arange(len(column)), column]
        users = (is_free & (place >= 0)).nonzero()[0]
        column = column[users]
        item = free.candidates.item_index[users, column]
        self._item[users, place[users]] = item
        self._score[users, place[users]] = free.candidates.score[users, column]
        free.allowed[users, column] = False
        self._close_full_groups(free, users, item)

    def _close_full_groups(self, free: _Open, users: NDArray[np.intp], item: Items) -> None:
        """Allow no more of the groups that are full with these users' items, (M,)."""
        for cap, group in zip(self._caps, free.groups, strict=True):
            own, listed = cap.group[item, None], self._item[users]
            same = (cap.group[listed] == own) & (listed != PAD)
            is_full = (own[:, 0] >= 0) & (same.sum(axis=1) >= cap.most)
            full = users[is_full]
            free.allowed[full] &= group[full] != own[is_full]

    def filled(self) -> NDArray[np.bool_]:
        """(N, K) whether a place has an item."""
        return self._item != PAD

    def first_free(self) -> Items:
        """(N,) the first free place of each list, -1 where there is none."""
        free = ~self.filled()
        return np.where(free.any(axis=1), free.argmax(axis=1), -1)

    def closed_up(self, marks: NDArray[np.bool_]) -> tuple[Items, Scores, NDArray[np.bool_]]:
        """Items, scores and marks of places, without gaps."""
        order = np.argsort(~self.filled(), axis=1, kind="stable")
        return (
            np.take_along_axis(self._item, order, axis=1),
            np.take_along_axis(self._score, order, axis=1),
            np.take_along_axis(marks, order, axis=1),
        )


def check_scores(score: Scores) -> None:
    """Check that scores are numbers, or -inf for items that may not be recommended.

    Raises:
        BundleError: one is NaN or infinite.
    """
    if not (score < np.inf).all():  # false for NaN too
        raise BundleError(
            "the model computes scores that are NaN or infinite",
            remedy="The training diverged: train and export the model again.",
        )
