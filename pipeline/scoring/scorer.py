"""Histories to parts of the output: reading, scoring and writing overlap."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.engines.base import Engine, Progress, WorkerDiedError, prefetch
from pipeline.errors import PublishError, raised_as
from pipeline.rules.user_segments import UserSegments
from pipeline.scoring.because import NearestHistory
from pipeline.scoring.candidate_scorer import CandidateScorer
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.encoded_part import EncodedPart, RankedPart
from pipeline.scoring.list_scorer import ListScorer
from pipeline.scoring.output import PartWriter
from pipeline.scoring.recommender import Recommender, load_recommender
from pipeline.scoring.segment_scorer import PartScorer, SegmentScorer
from pipeline.scoring.user_encoder import UserEncoder
from pipeline.scoring.user_histories import PART_USERS, UserHistories, split_parts
from pipeline.scoring.user_lists import NO_USER_LISTS, UserLists

_PART_ROWS = 4 * 2**20  # the largest number of recommendations in one part


def open_scorer(
    bundle: Bundle,
    settings: ScoreSettings,
    eligibility: Eligibility,
    cache: Path | None,
    device_id: int,
    user_lists: UserLists = NO_USER_LISTS,
    segments: UserSegments | None = None,
) -> PartScorer:
    """Open a bundle's recommender, or its encoder for candidates, with the settings' provider.

    Args:
        bundle: The model.
        settings: What to recommend.
        eligibility: The items that may be recommended.
        cache: The folder of TensorRT's engines, one subfolder per model.
        device_id: The index of the GPU.
        user_lists: The items listed per user.
        segments: Which segment each user is in; None where there are no segments.

    Raises:
        ConfigError: the provider does not work here, or the bundle lacks the precision.
        BundleError: the graph cannot be loaded, or `bundle.json` describes another.
    """
    table = np.memmap(bundle.item_table, np.float32, "r").reshape(bundle.n_items, -1)
    nearest = (
        NearestHistory.over(table, bundle.max_length, settings.threads)
        if settings.because
        else None
    )
    scorer: ListScorer | CandidateScorer
    if user_lists.candidates is not None:
        encoder = UserEncoder.load(
            bundle,
            table.shape[1],
            settings,
            device_id=device_id,
            cache=cache and cache / f"{bundle.model_version}-encoder",
        )
        scorer = CandidateScorer(
            encoder,
            user_lists.candidates,
            user_lists.exclude,
            bool(settings.exclude_seen),
            table,
            eligibility,
            settings.top_k,
            nearest,
        )
    else:
        recommender = _open_recommender(bundle, settings, eligibility, cache, device_id)
        scorer = ListScorer(
            recommender,
            eligibility,
            table,
            tuple(each.embeddings(table) for each in eligibility.lists.promoted),
            bundle.max_length,
            settings.top_k,
            bool(settings.exclude_seen),
            nearest,
            user_lists.exclude,
        )
    return SegmentScorer(scorer, segments) if segments and segments.names else scorer


def _open_recommender(
    bundle: Bundle,
    settings: ScoreSettings,
    eligibility: Eligibility,
    cache: Path | None,
    device_id: int,
) -> Recommender:
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
    return recommender


def write_parts(
    histories: Iterable[UserHistories],
    engine: Engine[UserHistories, RankedPart | EncodedPart],
    most_items: int,
    out: PartWriter,
    progress: Progress,
) -> None:
    """Score the users that the finished parts of `out` do not hold yet.

    Args:
        histories: Everybody's, in the same order in every run over the same input.
        engine: Scores the users of each part.
        most_items: The greatest K of any user.
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

    def write(part: RankedPart | EncodedPart) -> None:
        out.write(part.encoded())

    parts = split_parts(histories, min(PART_USERS, max(1, _PART_ROWS // most_items)))
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
        for part in results:
            if writing is not None:
                writing.result()
            writing = writer.submit(write, part)
        if writing is not None:
            writing.result()


def _without_first(parts: Iterator[UserHistories], users: int) -> Iterator[UserHistories]:
    """The parts without the first so many users."""
    for part in parts:
        begin = min(users, len(part))
        users -= begin
        if begin < len(part):
            yield part.slice(begin, len(part))
