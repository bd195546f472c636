"""The lists of a part's users: candidates from the recommender, and the rules on whole lists."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.base import Progress
from pipeline.rules.lists import AHEAD, WIDER, Candidates, Lists, Slots, check_scores, fill_lists
from pipeline.schema import PAD
from pipeline.scoring.batches import ItemsPerUser, ScoringBatch, batches, excluded_items, pad_rows
from pipeline.scoring.because import NearestHistory
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.popular_lists import popular_lists
from pipeline.scoring.recommender import Recommender, TopItems
from pipeline.scoring.user_histories import Integers, UserHistories
from pipeline.scoring.user_lists import UserItems

_CANDIDATES = 2**23  # in memory at a time


@dataclass(frozen=True)
class ListScorer:
    """The worker of scoring: it ranks items for the users of a part.

    Attributes:
        recommender: The recommender in its session.
        eligibility: The items that may be recommended, and the rules on whole lists.
        table: (V, D) float32, the items' embeddings.
        promoted_tables: The `embeddings` of each of `lists.promoted`.
        max_length: L.
        top_k: K.
        exclude_seen: Whether items that a user has seen are never recommended.
        nearest: Finds the item of the history that stands for each listed one; None where that
            is not asked for.
        exclude: Items that a user never gets; None for none.
    """

    recommender: Recommender
    eligibility: Eligibility
    table: NDArray[np.float32]
    promoted_tables: tuple[NDArray[np.float32], ...]
    max_length: int
    top_k: int
    exclude_seen: bool
    nearest: NearestHistory | None = None
    exclude: UserItems | None = None

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
        everything = histories
        histories, others = self._known_to_the_model(histories)
        ranked = self._popular(histories, everything)
        new_seen = excluded_items(others, exclude_seen=self.exclude_seen, listed=None)
        progress(int(ranked.popular.sum()))
        users = (~ranked.popular).nonzero()[0]
        count = (
            min(math.ceil(AHEAD * self.top_k), self._n_items)
            if self.eligibility.lists
            else self.top_k
        )
        while len(users):
            unsure = []
            size = max(1, _CANDIDATES // count)
            for some in np.split(users, range(size, len(users), size)):
                lists = self._lists(histories, new_seen, some, count, progress)
                unsure.append(some[lists.unsure])
                ranked.put(some, lists)
            users, count = np.concatenate(unsure), min(WIDER * count, self._n_items)
            progress = _counted_before
        return self.with_because(ranked, histories)

    def with_rules(self, eligibility: Eligibility, top_k: int) -> Self:
        """The scorer of users with other rules and another K, without `because`."""
        recommender = self.recommender
        if not np.array_equal(eligibility.item_bias, self.eligibility.item_bias):
            recommender = recommender.with_bias(eligibility.item_bias)
        return replace(
            self,
            recommender=recommender,
            eligibility=eligibility,
            promoted_tables=tuple(
                each.embeddings(self.table) for each in eligibility.lists.promoted
            ),
            top_k=top_k,
            nearest=None,
        )

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self.recommender.provider

    @property
    def at_once(self) -> int:
        """Batches at a time."""
        return self.recommender.at_once

    @property
    def _n_items(self) -> int:
        """V - 1."""
        return len(self.eligibility.item_bias) - 1

    def _known_to_the_model(self, histories: UserHistories) -> tuple[UserHistories, UserHistories]:
        """The users' items that the model knows, and the others, which are new."""
        if self.eligibility.other_ids is None:
            return histories, histories.only(np.zeros(len(histories.items), bool))
        known = histories.items <= self._n_items
        return histories.only(known), histories.only(~known)

    def with_because(self, ranked: Ranked, histories: UserHistories) -> Ranked:
        """The same lists with `because`, where that is asked for."""
        if self.nearest is None:
            return ranked
        is_new = self.eligibility.is_new[ranked.item_index]  # without a trained embedding
        listed = np.where(is_new, PAD, ranked.item_index)
        known, _ = self._known_to_the_model(histories)
        return replace(ranked, because=self.nearest(known, listed))

    def _lists(
        self,
        histories: UserHistories,
        new_seen: ItemsPerUser,
        users: Integers,
        count: int,
        progress: Progress,
    ) -> Lists:
        """The lists of some users, as far as so many candidates decide them.

        Args:
            histories: Those of all users of the part.
            new_seen: What all users of the part have seen and the model does not know, as
                `excluded_items`.
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
            exclude = np.hstack([batch.exclude, pad_rows(new_seen, users[batch.rows])])
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
        if self.eligibility.lists or count != recommender.top_k:
            recommender = recommender.giving(
                count, embeddings=bool(self.eligibility.lists.promoted)
            )
        prepared = batches(
            histories,
            max_length=self.max_length,
            batch_size=recommender.batch_size,
            exclude_seen=self.exclude_seen,
            listed=self.exclude,
        )
        running: deque[tuple[ScoringBatch, Future[TopItems]]] = deque()
        try:
            for batch in prepared:
                run = recommender.cores.submit(recommender, self._for_the_model(batch))
                running.append((batch, run))
                if len(running) > recommender.at_once:
                    yield _checked(*running.popleft())
            while running:
                yield _checked(*running.popleft())
        finally:
            for _, left in running:  # after an error
                left.cancel()

    def _for_the_model(self, batch: ScoringBatch) -> ScoringBatch:
        """A batch without excluded items that the model does not know."""
        if self.eligibility.other_ids is None:
            return batch
        known = np.where(batch.exclude > self._n_items, PAD, batch.exclude)
        return replace(batch, exclude=known)

    def _popular(self, histories: UserHistories, everything: UserHistories) -> Ranked:
        """The popular items for users without an item that the model sees, PAD for the others.

        Args:
            histories: The items that the model knows.
            everything: The same users' items, new ones among them.
        """
        # One list suits all such users but those with items of their own that they may not get:
        # new ones, listed ones, and those of events that the model does not see.
        popular = histories.inputs().lengths == 0
        wanted = np.full(len(histories), self.top_k)
        ranked = Ranked.of_nothing(histories.user_id, wanted, popular)
        if not popular.any():
            return ranked
        users, nothing = popular.nonzero()[0], np.zeros((1, 0), np.int64)
        for _, lists in popular_lists(self.eligibility, nothing, self.top_k):
            ranked.put(users, lists)
        never = excluded_items(
            everything.filter(popular),
            exclude_seen=self.exclude_seen,
            listed=self.exclude,
        )
        _, _, widths = never
        order = np.argsort(-widths, kind="stable")
        order = order[widths[order] > 0]
        while len(order):
            size = max(1, _CANDIDATES // (self.top_k + int(widths[order[0]])))
            some, order = order[:size], order[size:]
            exclude = pad_rows(never, some)
            for rows, lists in popular_lists(self.eligibility, exclude, self.top_k):
                ranked.put(users[some[rows]], lists)
        return ranked


def _counted_before(users: int) -> None:
    """The progress of users who come again."""


def _checked(batch: ScoringBatch, run: Future[TopItems]) -> tuple[ScoringBatch, TopItems]:
    found = run.result()
    check_scores(found[1])
    return batch, found
