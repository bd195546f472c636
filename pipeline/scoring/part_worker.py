"""The worker of a scoring run: histories of a part's users to the part of the output."""

from dataclasses import dataclass
from typing import Protocol

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.engines.base import Progress
from pipeline.scoring.encoded_part import EncodedPart, RankedPart
from pipeline.scoring.output_rows import RowFormat
from pipeline.scoring.segment_scorer import PartScorer
from pipeline.scoring.user_histories import UserHistories


class OpenScorer(Protocol):
    """`open_scorer`, given all but these arguments."""

    def __call__(self, bundle: Bundle, settings: ScoreSettings, *, device_id: int) -> PartScorer:
        """See `open_scorer`."""


@dataclass(frozen=True)
class PartWorker:
    """The worker of an engine that scores.

    Attributes:
        scorer: Ranks items for the users of a part.
        row_format: Makes rows of their lists.
        encodes: Whether the worker makes the content of the part's file, too, as it should where
            it is in another process. In this one that is done while it ranks the next part.
    """

    scorer: PartScorer
    row_format: RowFormat
    encodes: bool

    def __call__(self, histories: UserHistories, progress: Progress) -> RankedPart | EncodedPart:
        """The part of N users."""
        part = RankedPart(self.scorer(histories, progress), self.row_format)
        return part.encoded() if self.encodes else part


@dataclass(frozen=True)
class WorkerOpener:
    """Opens workers of one scoring run.

    Attributes:
        open_scorer: It must pickle where workers are in other processes.
        row_format: See `PartWorker`.
    """

    open_scorer: OpenScorer
    row_format: RowFormat

    def __call__(
        self, bundle: Bundle, settings: ScoreSettings, *, device_id: int, encodes: bool
    ) -> PartWorker:
        """A worker, on a device; for the other arguments see `open_scorer` and `PartWorker`."""
        scorer = self.open_scorer(bundle, settings, device_id=device_id)
        return PartWorker(scorer, self.row_format, encodes)
