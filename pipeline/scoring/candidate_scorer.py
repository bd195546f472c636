"""The lists of a part's users of items that are listed for each: no other item is ranked."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from pipeline.engines.base import Progress
from pipeline.rules.lists import AHEAD, WIDER, Lists, Slots, check_scores, fill_lists
from pipeline.rules.promoted import best_of
from pipeline.scoring.batches import excluded_keys
from pipeline.scoring.because import NearestHistory
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.user_encoder import Floats, UserEncoder
from pipeline.scoring.user_histories import Integers, UserHistories
from pipeline.scoring.user_lists import UserItems, among

_PAIRS = 2**22  # in memory at a time
_FLOATS = 2**22  # of the embeddings that are multiplied at a time


@dataclass(frozen=True)
class CandidateScorer:
    """The worker of scoring with `score.candidates`: it ranks each user's own candidates.

    A score is the product of two embeddings in float32, added up in the same order for all items,
    so that items of equal embeddings have equal scores; ties go to the smaller index, as elsewhere.

    Attributes:
        encoder: The encoder in its session.
        candidates: The only items that each user may get.
        exclude: Items that a user may not get even so; None for none.
        exclude_seen: Whether items of a user's whole history are among those.
        table: (V, D) float32, the items' embeddings.
        eligibility: The items that may be recommended, and the rules on whole lists.
        top_k: K.
        nearest: Finds the item of the history that stands for each listed one; None where that
            is not asked for.
    """

    encoder: UserEncoder
    candidates: UserItems
    exclude: UserItems | None
    exclude_seen: bool
    table: Floats
    eligibility: Eligibility
    top_k: int
    nearest: NearestHistory | None = None

    def __call__(self, histories: UserHistories, progress: Progress) -> Ranked:
        """The lists of N users; those without a known item get the most popular candidates.

        Args:
            histories: The histories of N users.
            progress: Is called with the number of users of every finished batch.

        Raises:
            BundleError: an embedding or a score is NaN or infinite.
            ConfigError: the device fails.
        """
        is_listed = self.candidates.lengths(histories.user_id) > 0
        is_known = histories.inputs().lengths > 0
        encoded = is_listed & is_known
        progress(int((~encoded).sum()))
        user_embedding = np.zeros((len(histories), self.table.shape[1]), np.float32)
        user_embedding[encoded] = self.encoder(histories.filter(encoded), progress)
        wanted = np.full(len(histories), self.top_k)
        ranked = Ranked.of_nothing(histories.user_id, wanted, is_listed & ~is_known)
        for some, lists in self._lists(histories, user_embedding):
            ranked.put(some, lists)
        return self.with_because(ranked, histories)

    def with_because(self, ranked: Ranked, histories: UserHistories) -> Ranked:
        """The same lists with `because`, where that is asked for."""
        if self.nearest is None:
            return ranked
        return replace(ranked, because=self.nearest(histories, ranked.item_index))

    def with_rules(self, eligibility: Eligibility, top_k: int) -> Self:
        """The scorer of users with other rules and another K, without `because`."""
        return replace(self, eligibility=eligibility, top_k=top_k, nearest=None)

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self.encoder.provider

    @property
    def at_once(self) -> int:
        """Batches at a time."""
        return self.encoder.at_once

    def _lists(
        self, histories: UserHistories, user_embedding: Floats
    ) -> Iterator[tuple[Integers, Lists]]:
        """The positions of some users, and their lists; users may come again with longer ones.

        Users come in descending order of their number of candidates, as many at a time as fit.

        Args:
            histories: The histories of N users; candidates of those without a known item are
                ranked by popularity.
            user_embedding: (N, D) float32; ignored for users without a known item.
        """
        lengths = self.candidates.lengths(histories.user_id)
        order = np.argsort(-lengths, kind="stable")
        order = order[lengths[order] > 0]
        while len(order):
            size = max(1, _PAIRS // int(lengths[order[0]]))
            chosen = np.zeros(len(histories), bool)
            chosen[order[:size]] = True
            users = chosen.nonzero()[0]
            for some, lists in self._filled(histories.filter(chosen), user_embedding[users]):
                yield users[some], lists
            order = order[size:]

    def _filled(
        self, histories: UserHistories, user_embedding: Floats
    ) -> Iterator[tuple[Integers, Lists]]:
        item, score = self._scored(histories, user_embedding)
        rules, users = self.eligibility.lists, np.arange(len(histories))
        promoted = []
        for each in rules.promotions:
            is_promoted = np.zeros(len(self.table), bool)
            is_promoted[each.items] = True
            promoted.append((each.places, is_promoted))
        count = math.ceil(AHEAD * self.top_k) if rules else self.top_k
        while len(users):
            slots = []
            for places, is_promoted in promoted:
                own = np.where(is_promoted[item], score, np.float32(-np.inf))
                slots.append(Slots(places, best_of(item, own, count)))
            lists = fill_lists(best_of(item, score, count), slots, rules.caps, self.top_k)
            yield users, lists
            users, item, score = users[lists.unsure], item[lists.unsure], score[lists.unsure]
            count *= WIDER

    def _scored(self, histories: UserHistories, user_embedding: Floats) -> tuple[Integers, Floats]:
        """Each user's candidates, ascending, and their scores: (N, C) each.

        The score is -inf where a user may not get the item, and beside PAD.
        """
        n_items = len(self.table)
        user, item = self.candidates.pairs(histories.user_id)
        score = self._products(user, item, user_embedding)
        check_scores(score)
        popularity = np.full(n_items, -np.inf)  # in float64, as shares of recent events need
        popularity[self.eligibility.popular] = self.eligibility.popular_score
        score += self.eligibility.item_bias[item]
        score = np.where(histories.inputs().lengths[user] > 0, score, popularity[item])
        never = excluded_keys(
            histories, n_items, exclude_seen=self.exclude_seen, listed=self.exclude
        )
        keys = user * n_items + item
        score[np.searchsorted(keys, never[among(never, keys)])] = -np.inf
        lengths = np.bincount(user, minlength=len(histories))
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
        padded = np.zeros(inside.shape, np.int64), np.full(inside.shape, -np.inf)
        padded[0][inside], padded[1][inside] = item, score
        return padded

    def _products(self, user: Integers, item: Integers, user_embedding: Floats) -> Floats:
        """(P,) float32, the products of users' and items' embeddings."""
        score = np.zeros(len(user), np.float32)
        step = max(1, _FLOATS // self.table.shape[1])
        for begin in range(0, len(user), step):
            some = slice(begin, begin + step)
            np.einsum(
                "pd,pd->p", user_embedding[user[some]], self.table[item[some]], out=score[some]
            )
        return score
