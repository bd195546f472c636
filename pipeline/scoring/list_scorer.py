"""The lists of a part's users: candidates from the recommender, and the rules on whole lists."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.engines.base import Progress
from pipeline.errors import BundleError
from pipeline.rules.lists import Candidates, Lists, Slots, fill_lists
from pipeline.schema import PAD
from pipeline.scoring.batches import ScoringBatch, batches, distinct_items, pad
from pipeline.scoring.because import NearestHistory
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.recommender import Recommender, TopItems
from pipeline.scoring.user_histories import Integers, UserHistories

_AHEAD = 1.5  # candidates per place of a list, at first
_WIDER = 4  # and so many times more for users to whom they are not enough
_CANDIDATES = 2**23  # in memory at a time
_ALIKE = 2**10  # groups of users without history at a time


@dataclass(frozen=True)
class ListScorer:
    """The worker of scoring: it ranks items for the users of a part.

    Attributes:
        recommender: The recommender in its session.
        eligibility: The items that may be recommended, and the rules on whole lists.
        promoted_tables: The `embeddings` of each of `lists.promoted`.
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
            histories: The histories of N users, perhaps with new items that the model does not
                know.
            progress: Is called with the number of users of every finished batch.

        Raises:
            BundleError: a score is NaN or infinite, or the rules need a newer bundle.
            ConfigError: the device fails.
        """
        histories, new_seen = self._known_to_the_model(histories)
        ranked = self._popular(histories, new_seen)
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
                lists = self._lists(histories, new_seen[some], some, count, progress)
                unsure.append(some[lists.unsure])
                ranked.put(some, lists)
            users, count = np.concatenate(unsure), min(_WIDER * count, self._n_items)
            progress = _counted_before
        return self._with_because(ranked, histories)

    def rank_no_users(self, user_type: pa.DataType) -> Ranked:
        """The result for no users, with ids of a type."""
        nobody = UserHistories(
            pa.array([], user_type), np.zeros(0, np.int64), np.zeros(1, np.int64)
        )
        nothing = np.zeros((0, 0), np.int64)
        return self._with_because(self._popular(nobody, nothing), nobody)

    @property
    def _n_items(self) -> int:
        """V - 1."""
        return len(self.eligibility.item_bias) - 1

    def _known_to_the_model(self, histories: UserHistories) -> tuple[UserHistories, Integers]:
        """Histories of items that the model knows, and the others that the N users have seen.

        Returns:
            The histories, and (N, E) the other items, padded with PAD; E is 0 where users may be
            recommended what they have seen.
        """
        nothing = np.zeros((len(histories), 0), np.int64)
        if self.eligibility.other_ids is None:
            return histories, nothing
        known = histories.items <= self._n_items
        user_id, offsets = histories.user_id, histories.offsets
        of_model = UserHistories.without_pad(
            user_id, np.where(known, histories.items, PAD), offsets, histories.is_seen
        )
        if not self.exclude_seen:
            return of_model, nothing
        others = np.where(known, PAD, histories.items)
        seen = UserHistories.without_pad(user_id, others, offsets, histories.is_seen).seen()
        items, ends, counts = distinct_items(seen)
        return of_model, pad(items, ends, counts, int(counts.max(initial=0)))

    def _with_because(self, ranked: Ranked, histories: UserHistories) -> Ranked:
        if self.nearest is None:
            return ranked
        is_new = self.eligibility.is_new[ranked.item_index]  # without a trained embedding
        listed = np.where(is_new, PAD, ranked.item_index)
        return replace(ranked, because=self.nearest(histories, listed))

    def _lists(
        self,
        histories: UserHistories,
        new_seen: Integers,
        users: Integers,
        count: int,
        progress: Progress,
    ) -> Lists:
        """The lists of some users, as far as so many candidates decide them.

        Args:
            histories: Those of all users of the part.
            new_seen: (M, E) the items that these M users have seen and the model does not know.
            users: (M,) the users, ascending.
            count: The number of candidates.
            progress: As for `__call__`.
        """
        chosen = np.zeros(len(histories), bool)
        chosen[users] = True
        part = histories if chosen.all() else histories.filter(chosen)
        every = count == self._n_items
        found = Candidates.none(len(part), count, complete=every)
        slots = []
        for each in self.eligibility.lists.promoted:
            width = len(each.items) if every else 2 * len(each.places) * count // self.top_k
            width = min(max(width, 1), max(len(each.items), 1))
            best = Candidates.none(len(part), width, complete=width >= len(each.items))
            slots.append(Slots(each.places, best))
        for batch, (item_index, score, *embedding) in self._run(part, count):
            found.put(batch.rows, item_index, score)
            promotions = zip(
                self.eligibility.lists.promoted, self.promoted_tables, slots, strict=True
            )
            exclude = np.hstack([batch.exclude, new_seen[batch.rows]])
            for each, table, slot in promotions:
                best, width = slot.candidates, slot.candidates.item_index.shape[1]
                ranked = each.ranked(each.scores(embedding[0], table), exclude, width)
                best.put(batch.rows, ranked.item_index, ranked.score)
            progress(len(batch.rows))
        if self.eligibility.lists:
            return fill_lists(found, slots, self.eligibility.lists.caps, self.top_k)
        nothing = np.zeros(found.item_index.shape, bool)
        return Lists(found.item_index, found.score, nothing, nothing[:, 0])

    def _run(self, histories: UserHistories, count: int) -> Iterator[tuple[ScoringBatch, TopItems]]:
        """Every batch of the users, and what the recommender finds for it."""
        recommender = self.recommender
        if self.eligibility.lists:
            recommender = recommender.giving(
                count, embeddings=bool(self.eligibility.lists.promoted)
            )
        prepared = batches(
            histories,
            max_length=self.max_length,
            batch_size=recommender.batch_size,
            exclude_seen=self.exclude_seen,
        )
        running: deque[tuple[ScoringBatch, Future[TopItems]]] = deque()
        with ThreadPoolExecutor(recommender.at_once) as cores:
            for batch in prepared:
                running.append((batch, cores.submit(recommender, batch)))
                if len(running) > recommender.at_once:
                    yield _checked(*running.popleft())
            while running:
                yield _checked(*running.popleft())

    def _popular(self, histories: UserHistories, new_seen: Integers) -> Ranked:
        """The popular items for users without a known item, and PAD for the others.

        Args:
            histories: The histories of N users.
            new_seen: (N, E) the items that they have seen and the model does not know.
        """
        popular = histories.lengths == 0
        ranked = Ranked.of_nothing(histories.user_id, self.top_k, popular)
        # Such users have seen no eligible item but new ones, so that few lists suit all of them.
        users = popular.nonzero()[0]
        if len(users):
            seen, alike = new_seen[users[:1]], np.zeros(len(users), np.int64)
            if seen.shape[1]:
                seen, alike = np.unique(new_seen[users], axis=0, return_inverse=True)
            for begin in range(0, len(seen), _ALIKE):
                some = (alike >= begin) & (alike < begin + _ALIKE)
                lists = self._popular_lists(seen[begin : begin + _ALIKE])
                ranked.put(users[some], lists.take(alike[some] - begin))
        return ranked

    def _popular_lists(self, exclude: Integers) -> Lists:
        """The lists of users without a known item who may not get some new items, (N, E)."""
        count = self.top_k
        while True:
            every = count >= len(self.eligibility.popular)
            items, scores = self.eligibility.popular[:count], self.eligibility.popular_score[:count]
            shape = len(exclude), len(items)
            best = Candidates(np.broadcast_to(items, shape), np.broadcast_to(scores, shape), every)
            slots = [
                Slots(each.places, each.popular(exclude, count))
                for each in self.eligibility.lists.promoted
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
