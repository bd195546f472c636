"""The lists of a part's users where users of several segments have rules of their own."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from pipeline.engines.base import Progress
from pipeline.results import SegmentCounts
from pipeline.rules.user_segments import UserSegments
from pipeline.scoring.candidate_scorer import CandidateScorer
from pipeline.scoring.list_scorer import ListScorer
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.user_histories import UserHistories


@dataclass(frozen=True)
class SegmentScorer:
    """The worker of scoring with segments: it ranks items for the users of a part.

    The users of one segment are ranked together, in batches with one bias, by a scorer that is made
    for them. What is as large as the item table exists for a few segments at a time.

    Attributes:
        plain: The scorer of users in no segment.
        segments: Which segment each user is in.
    """

    plain: ListScorer | CandidateScorer
    segments: UserSegments

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self.plain.provider

    def __call__(self, histories: UserHistories, progress: Progress) -> Ranked:
        """The lists of N users: as those of the plain scorer."""
        number = self.segments.of(histories.user_id)
        order = np.argsort(number, kind="stable")
        grouped = histories.take(order)
        sizes = np.bincount(number)
        ends = np.cumsum(sizes)
        lengths = [self.plain.top_k, *(each.top_k for each in self.plain.eligibility.segments)]
        popular = np.zeros(len(histories), bool)
        ranked = Ranked.of_nothing(histories.user_id, np.array(lengths)[number], popular)
        counting = Lock()

        def counted(users: int) -> None:
            with counting:
                progress(users)

        def rank(segment: int) -> None:
            begin, end = ends[segment] - sizes[segment], ends[segment]
            some = self.of_segment(segment)(grouped.slice(begin, end), counted)
            ranked.put(order[begin:end], some)
            popular[order[begin:end]] = some.popular

        largest_first = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        # Several at a time: the last batches of one alone would not keep all cores busy.
        with ThreadPoolExecutor(1 + -(-self.plain.at_once // 4)) as several:
            for _ in several.map(rank, largest_first.tolist()):
                pass
        return self.plain.with_because(ranked, histories)

    def of_segment(self, segment: int) -> ListScorer | CandidateScorer:
        """The scorer of a segment's users, or of those in none, without `because`."""
        if segment == 0:
            return replace(self.plain, nearest=None)
        rules = self.plain.eligibility
        return self.plain.with_rules(rules.of_segment(segment), rules.segments[segment - 1].top_k)


PartScorer = ListScorer | CandidateScorer | SegmentScorer


class UsersPerSegment:
    """Counts the users of each segment while histories are read.

    Args:
        segments: Which segment each user is in.
    """

    def __init__(self, segments: UserSegments) -> None:
        self._segments = segments
        self._users = np.zeros(len(segments.names) + 1, np.int64)

    def counted(self, histories: Iterable[UserHistories]) -> Iterator[UserHistories]:
        """The same histories."""
        for each in histories:
            if self._segments.names:
                number = self._segments.of(each.user_id)
                self._users += np.bincount(number, minlength=len(self._users))
            yield each

    @property
    def counts(self) -> tuple[SegmentCounts, ...]:
        """The counts, when all histories were read."""
        listed, users = self._segments.listed()[1:].tolist(), self._users[1:].tolist()
        return tuple(map(SegmentCounts, self._segments.names, listed, users))
