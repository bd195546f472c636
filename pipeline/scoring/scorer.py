"""Histories to parts of the output: reading, scoring and writing overlap."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.engines.base import Engine, Progress, WorkerDiedError, prefetch
from pipeline.errors import BundleError, PublishError, raised_as
from pipeline.schema import PAD
from pipeline.scoring.batches import ScoringBatch, batches
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.manifest import PartCounts
from pipeline.scoring.output import PartWriter
from pipeline.scoring.output_rows import Ranked, RowFormat
from pipeline.scoring.recommender import Recommender, TopItems, load_recommender
from pipeline.scoring.user_histories import PART_USERS, UserHistories, split_parts

_PART_ROWS = 4 * 2**20  # the largest number of recommendations in one part


@dataclass(frozen=True)
class ListScorer:
    """The worker of scoring: it ranks items for the users of a part.

    Attributes:
        recommender: The recommender in its session.
        eligibility: The items that may be recommended.
        max_length: L.
        top_k: K.
        exclude_seen: Whether items of a user's whole history are never recommended.
    """

    recommender: Recommender
    eligibility: Eligibility
    max_length: int
    top_k: int
    exclude_seen: bool

    def __call__(self, histories: UserHistories, progress: Progress) -> Ranked:
        """The best items of N users; users without a known item get the popular ones.

        Args:
            histories: The histories of N users.
            progress: Is called with the number of users of every finished batch.

        Raises:
            BundleError: a score is NaN or infinite.
            ConfigError: the device fails.
        """
        ranked = self._popular(histories)
        prepared = batches(
            histories,
            max_length=self.max_length,
            batch_size=self.recommender.batch_size,
            exclude_seen=self.exclude_seen,
        )

        def take(batch: ScoringBatch, run: Future[TopItems]) -> None:
            item_index, score = run.result()
            if not (score < np.inf).all():  # false for NaN too
                raise BundleError(
                    "the model computes scores that are NaN or infinite",
                    remedy="The training diverged: train and export the model again.",
                )
            ranked.item_index[batch.rows] = item_index
            ranked.score[batch.rows] = score
            progress(len(batch.rows))

        running: deque[tuple[ScoringBatch, Future[TopItems]]] = deque()
        with ThreadPoolExecutor(self.recommender.at_once) as cores:
            for batch in prepared:
                running.append((batch, cores.submit(self.recommender, batch)))
                if len(running) > self.recommender.at_once:
                    take(*running.popleft())
            while running:
                take(*running.popleft())
        progress(int(ranked.popular.sum()))
        return ranked

    def rank_no_users(self, user_type: pa.DataType) -> Ranked:
        """The result for no users, with ids of a type."""
        return self._popular(
            UserHistories(pa.array([], user_type), np.zeros(0, np.int64), np.zeros(1, np.int64))
        )

    def _popular(self, histories: UserHistories) -> Ranked:
        """The popular items for users without a known item, and PAD for the others."""
        # A user without a known item has seen no eligible one, so these items suit all such users.
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
    """Open a bundle's recommender with the provider and precision of the settings.

    Args:
        bundle: The model.
        settings: What to recommend.
        eligibility: The items that may be recommended.
        cache: The folder of TensorRT's engines, one subfolder per model.
        device_id: The index of the GPU.

    Raises:
        ConfigError: the provider does not work here, or the bundle lacks the precision.
        BundleError: the graph cannot be loaded, or `bundle.json` describes another.
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
        threads=settings.threads,
        cache=cache and cache / f"{bundle.model_version}-{settings.precision}",
    )
    bundle.check_description(recommender.session)
    return ListScorer(
        recommender, eligibility, bundle.max_length, settings.top_k, settings.exclude_seen
    )


def write_parts(
    histories: Iterable[UserHistories],
    engine: Engine[UserHistories, Ranked],
    top_k: int,
    row_format: RowFormat,
    out: PartWriter,
    progress: Progress,
) -> None:
    """Score the users that the finished parts of `out` do not hold yet.

    Args:
        histories: Everybody's, in the same order in every run over the same input.
        engine: Ranks the users of each part.
        top_k: K.
        row_format: Makes rows of ranked items.
        out: Writes the parts.
        progress: Is called with the number of users done, finished parts included.

    Raises:
        BundleError: a score is NaN or infinite.
        PublishError: a part cannot be written, or a process of the engine died.
    """
    finished = done = out.done.n_users
    progress(done)

    def scored(users: int) -> None:
        nonlocal done
        done += users
        progress(done)

    def write(ranked: Ranked) -> None:
        table = row_format.rows(ranked)
        sizes = (ranked.item_index != PAD).sum(axis=1)
        counts = PartCounts(
            n_users=len(sizes),
            n_rows=table.num_rows,
            n_fallback=int(ranked.popular.sum()),
            n_short=int((sizes < top_k).sum()),
        )
        out.write(table, counts)

    parts = split_parts(histories, min(PART_USERS, max(1, _PART_ROWS // top_k)))
    writing: Future[None] | None = None
    with (
        raised_as(
            PublishError,
            WorkerDiedError,
            "a scoring process died",
            remedy="Finished parts are kept: run again with --resume.",
        ),
        ThreadPoolExecutor(1) as writer,
        closing(prefetch(_without_first(parts, finished))) as upcoming,
        closing(engine.results(upcoming, scored)) as results,
    ):
        for ranked in results:
            if writing is not None:
                writing.result()
            writing = writer.submit(write, ranked)
        if writing is not None:
            writing.result()


def _without_first(parts: Iterator[UserHistories], users: int) -> Iterator[UserHistories]:
    """The parts without the first so many users."""
    for part in parts:
        begin = min(users, len(part))
        users -= begin
        if begin < len(part):
            yield part.slice(begin, len(part))
