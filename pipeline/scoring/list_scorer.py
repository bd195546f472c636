"""The lists of a part's users: candidates from the recommender, and the rules on whole lists."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.engines.base import Progress
from pipeline.errors import BundleError
from pipeline.rules.lists import Candidates, Lists, Slots, fill_lists
from pipeline.scoring.batches import ScoringBatch, batches
from pipeline.scoring.because import NearestHistory
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.recommender import Recommender, TopItems
from pipeline.scoring.user_histories import Integers, UserHistories

_AHEAD = 1.5  # candidates per place of a list, at first
_WIDER = 4  # and so many times more for users to whom they are not enough
_CANDIDATES = 2**23  # in memory at a time


@dataclass(frozen=True)
class ListScorer:
    """The worker of scoring: it ranks items for the users of a part.

    Attributes:
        recommender: The recommender in its session.
        eligibility: The items that may be recommended, and the rules on whole lists.
        promoted_tables: Each promotion's (P, D) float32 embeddings of its items.
        max_length: L.
        top_k: K.
        exclude_seen: Whether items that a user has seen are never recommended.
        nearest: Finds the item of the history that stands for each listed one; None where that
            is not asked for.
    """

    recommender: Recommender
    eligibility: Eligibility
    promoted_tables: tuple[NDArray[np.float32], ...]
    max_length: int
    top_k: int
    exclude_seen: bool
    nearest: NearestHistory | None = None

    def __call__(self, histories: UserHistories, progress: Progress) -> Ranked:
        """The lists of N users; users without a known item get the popular ones.

        Args:
            histories: The histories of N users.
            progress: Is called with the number of users of every finished batch.

        Raises:
            BundleError: a score is NaN or infinite, or the rules need a newer bundle.
            ConfigError: the device fails.
        """
        ranked = self._popular(histories)
        progress(int(ranked.popular.sum()))
        users = (~ranked.popular).nonzero()[0]
        count = (
            min(math.ceil(_AHEAD * self.top_k), self._n_items)
            if self.eligibility.lists
            else self.top_k
        )
        while len(users):
            unsure = []
            size = max(1, _CANDIDATES // count)
            for some in np.split(users, range(size, len(users), size)):
                lists = self._lists(histories, some, count, progress)
                unsure.append(some[lists.unsure])
                ranked.put(some, lists)
            users, count = np.concatenate(unsure), min(_WIDER * count, self._n_items)
            progress = _counted_before
        return self.with_because(ranked, histories)

    def rank_no_users(self, user_type: pa.DataType) -> Ranked:
        """The result for no users, with ids of a type."""
        nobody = UserHistories(
            pa.array([], user_type), np.zeros(0, np.int64), np.zeros(1, np.int64)
        )
        return self.with_because(self._popular(nobody), nobody)

    @property
    def _n_items(self) -> int:
        """V - 1."""
        return len(self.eligibility.item_bias) - 1

    def with_because(self, ranked: Ranked, histories: UserHistories) -> Ranked:
        """The same lists with `because`, where that is asked for."""
        if self.nearest is None:
            return ranked
        return replace(ranked, because=self.nearest(histories, ranked.item_index))

    def _lists(
        self, histories: UserHistories, users: Integers, count: int, progress: Progress
    ) -> Lists:
        """The lists of some users, as far as so many candidates decide them."""
        chosen = np.zeros(len(histories), bool)
        chosen[users] = True
        part = histories if chosen.all() else histories.filter(chosen)
        every = count == self._n_items
        found = Candidates.none(len(part), count, complete=every)
        slots = []
        for each in self.eligibility.lists.promotions:
            width = len(each.items) if every else 2 * len(each.places) * count // self.top_k
            width = min(max(width, 1), max(len(each.items), 1))
            best = Candidates.none(len(part), width, complete=width >= len(each.items))
            slots.append(Slots(each.places, best))
        for batch, (item_index, score, *embedding) in self._run(part, count):
            found.put(batch.rows, item_index, score)
            promotions = zip(
                self.eligibility.lists.promotions, self.promoted_tables, slots, strict=True
            )
            for each, table, slot in promotions:
                best, width = slot.candidates, slot.candidates.item_index.shape[1]
                ranked = each.ranked(embedding[0] @ table.T, batch.exclude, width)
                best.put(batch.rows, ranked.item_index, ranked.score)
            progress(len(batch.rows))
        if self.eligibility.lists:
            return fill_lists(found, slots, self.eligibility.lists.caps, self.top_k)
        nothing = np.zeros(found.item_index.shape, bool)
        return Lists(found.item_index, found.score, nothing, nothing[:, 0])

    def _run(self, histories: UserHistories, count: int) -> Iterator[tuple[ScoringBatch, TopItems]]:
        """Every batch of the users, and what the recommender finds for it."""
        recommender = self.recommender
        if self.eligibility.lists or count != recommender.top_k:
            recommender = recommender.giving(
                count, embeddings=bool(self.eligibility.lists.promotions)
            )
        prepared = batches(
            histories,
            max_length=self.max_length,
            batch_size=recommender.batch_size,
            exclude_seen=self.exclude_seen,
        )
        running: deque[tuple[ScoringBatch, Future[TopItems]]] = deque()
        try:
            for batch in prepared:
                running.append((batch, recommender.cores.submit(recommender, batch)))
                if len(running) > recommender.at_once:
                    yield _checked(*running.popleft())
            while running:
                yield _checked(*running.popleft())
        finally:
            for _, left in running:  # after an error
                left.cancel()

    def _popular(self, histories: UserHistories) -> Ranked:
        """The popular items for users without a known item, and PAD for the others."""
        # A user without a known item has seen no eligible one, so these items suit all such users.
        popular = histories.lengths == 0
        wanted = np.full(len(histories), self.top_k)
        ranked = Ranked.of_nothing(histories.user_id, wanted, popular)
        if popular.any():
            ranked.put(popular.nonzero()[0], self._popular_list())
        return ranked

    def _popular_list(self) -> Lists:
        """The list of every user without a known item."""
        count = self.top_k
        while True:
            every = count >= len(self.eligibility.popular)
            best = Candidates(
                self.eligibility.popular[None, :count],
                self.eligibility.popular_score[None, :count],
                every,
            )
            slots = [
                Slots(each.places, each.popular(count))
                for each in self.eligibility.lists.promotions
            ]
            lists = fill_lists(best, slots, self.eligibility.lists.caps, self.top_k)
            if not lists.unsure.any():
                return lists
            count *= _WIDER


def _counted_before(users: int) -> None:
    """The progress of users who come again."""


def _checked(batch: ScoringBatch, run: Future[TopItems]) -> tuple[ScoringBatch, TopItems]:
    found = run.result()
    if not (found[1] < np.inf).all():  # false for NaN too
        raise BundleError(
            "the model computes scores that are NaN or infinite",
            remedy="The training diverged: train and export the model again.",
        )
    return batch, found
