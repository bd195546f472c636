"""Histories to parts: reading, padding, scoring and writing, each ahead of the next."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.bundles.bundle import Bundle
from pipeline.config.sections import ScoreSettings
from pipeline.errors import BundleError
from pipeline.schema import PAD
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.manifest import PartCounts
from pipeline.scoring.output import PartWriter
from pipeline.scoring.output_rows import Ranked, RowFormat
from pipeline.scoring.recommender import Recommender, load_recommender
from pipeline.scoring.user_histories import (
    PART_USERS,
    Integers,
    ScoringBatch,
    UserHistories,
    batches,
    split_parts,
)

_PART_ROWS = 4 * 2**20  # recommendations in one part, at most

Item = TypeVar("Item")


class Ranker(Protocol):
    """Whatever ranks items for parts of the users, and gives the parts back in their order."""

    @property
    def top_k(self) -> int:
        """K."""

    def ranked(
        self, parts: Iterable[UserHistories], scored: Callable[[int], None]
    ) -> Generator[Ranked, None, None]:
        """The best items of each part's users; `scored` is told of users done."""


@dataclass(frozen=True)
class ListScorer:
    """Ranks items for one part of the users after another."""

    recommender: Recommender
    eligibility: Eligibility
    max_length: int
    top_k: int
    exclude_seen: bool

    def ranked(
        self, parts: Iterable[UserHistories], scored: Callable[[int], None]
    ) -> Generator[Ranked, None, None]:
        """As `rank`, part by part."""
        return (self.rank(part, scored) for part in parts)

    def rank(self, histories: UserHistories, scored: Callable[[int], None]) -> Ranked:
        """The best items of some users; those without a known item get the popular ones.

        Args:
            histories: Of N users.
            scored: Is told the users of every batch done.

        Raises:
            BundleError: a score is no number.
        """
        ranked = self._popular(histories)
        prepared = batches(
            histories,
            max_length=self.max_length,
            batch_size=self.recommender.batch_size,
            exclude_seen=self.exclude_seen,
        )

        def take(batch: ScoringBatch, run: Future[tuple[Integers, NDArray[np.float32]]]) -> None:
            item_index, score = run.result()
            if not (score < np.inf).all():  # nor is a NaN
                raise BundleError(
                    "the model computes scores that are no numbers",
                    remedy="Training went astray: train and export the model again.",
                )
            ranked.item_index[batch.rows] = item_index
            ranked.score[batch.rows] = score
            scored(len(batch.rows))

        running: deque[tuple[ScoringBatch, Future[tuple[Integers, NDArray[np.float32]]]]] = deque()
        with ThreadPoolExecutor(self.recommender.at_once) as cores:
            for batch in prepared:
                running.append((batch, cores.submit(self.recommender, batch)))
                if len(running) > self.recommender.at_once:
                    take(*running.popleft())
            while running:
                take(*running.popleft())
        scored(int(ranked.popular.sum()))
        return ranked

    def nobody(self, user: pa.DataType) -> Ranked:
        """The best items of no users."""
        return self._popular(
            UserHistories(pa.array([], user), np.zeros(0, np.int64), np.zeros(1, np.int64))
        )

    def _popular(self, histories: UserHistories) -> Ranked:
        # Nobody without a known item has seen an eligible one: the same items suit them all.
        popular = histories.lengths == 0
        item_index = np.full((len(histories), self.top_k), PAD, np.int64)
        score = np.full((len(histories), self.top_k), -np.inf, np.float32)
        item_index[popular, : len(self.eligibility.popular)] = self.eligibility.popular
        score[popular, : len(self.eligibility.popular)] = self.eligibility.popular_score
        return Ranked(histories.user_id, item_index, score, popular)


def open_scorer(
    bundle: Bundle,
    settings: ScoreSettings,
    eligibility: Eligibility,
    cache: Path | None,
    device_id: int,
) -> ListScorer:
    """A bundle's recommender on the provider, and in the precision, of the settings.

    Args:
        bundle: The model.
        settings: What to recommend.
        eligibility: Of its items.
        cache: Where TensorRT keeps engines, of any model.
        device_id: Which of several devices.

    Raises:
        ConfigError: the provider does not work here, or the bundle has no such precision.
        BundleError: the graph cannot be loaded.
    """
    half = settings.precision == "fp16"
    recommender = load_recommender(
        bundle.float16_recommender if half else bundle.recommender,
        settings.provider,
        item_bias=eligibility.item_bias,
        top_k=settings.top_k,
        batch_size=settings.batch_size,
        precision=settings.precision,
        device_id=device_id,
        cache=cache and cache / f"{bundle.model_version}-{settings.precision}",
    )
    return ListScorer(
        recommender, eligibility, bundle.max_length, settings.top_k, settings.exclude_seen
    )


def write_parts(
    histories: Iterable[UserHistories],
    ranker: Ranker,
    layout: RowFormat,
    out: PartWriter,
    progress: Callable[[int], None],
) -> None:
    """Score everybody whom the finished parts of `out` do not hold yet.

    Args:
        histories: In the order of every run over the same input.
        ranker: Ranks.
        layout: Makes rows.
        out: Takes the parts.
        progress: Is told the users done.

    Raises:
        BundleError: a score is no number.
        PublishError: a part cannot be written.
    """
    finished = done = out.done.n_users
    progress(done)

    def scored(users: int) -> None:
        nonlocal done
        done += users
        progress(done)

    def write(ranked: Ranked) -> None:
        table = layout.rows(ranked)
        sizes = (ranked.item_index != PAD).sum(axis=1)
        counts = PartCounts(
            n_users=len(sizes),
            n_rows=table.num_rows,
            n_fallback=int(ranked.popular.sum()),
            n_short=int((sizes < ranker.top_k).sum()),
        )
        out.write(table, counts)

    parts = split_parts(histories, min(PART_USERS, max(1, _PART_ROWS // ranker.top_k)))
    writing: Future[None] | None = None
    with (
        ThreadPoolExecutor(1) as writer,
        closing(prefetch(_after(parts, finished))) as upcoming,
        closing(ranker.ranked(upcoming, scored)) as each,
    ):
        for ranked in each:
            if writing is not None:
                writing.result()
            writing = writer.submit(write, ranked)
        if writing is not None:
            writing.result()


def prefetch(source: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, the next one made in another thread while the caller has the last."""
    with ThreadPoolExecutor(1) as maker:
        upcoming = maker.submit(next, source, None)
        while (item := upcoming.result()) is not None:
            upcoming = maker.submit(next, source, None)
            yield item


def _after(parts: Iterator[UserHistories], finished: int) -> Iterator[UserHistories]:
    """The parts without the first `finished` users."""
    for part in parts:
        begin = min(finished, len(part))
        finished -= begin
        if begin < len(part):
            yield part.slice(begin, len(part))
