"""What each interaction is for: to be trained on, validated on or tested."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import torch
from torch import Tensor

from model.training.histories import EventHistories
from pipeline.config.settings import Settings
from pipeline.data.prepare import Prepared
from pipeline.data.prepared import events_before
from pipeline.dates import run_end
from pipeline.errors import InputError


@dataclass(frozen=True)
class Split:
    """Where each user's history is cut: trained on, then validated on, then tested.

    So every interaction is a training target, its user's first, in validation or in the test.

    Attributes:
        histories: N items of U users.
        valid_from: int64 (U,), the flat position where a user's validation begins.
        test_from: int64 (U,), and the test, which lasts until the history's end.
    """

    histories: EventHistories
    valid_from: Tensor
    test_from: Tensor

    @classmethod
    def nothing_held_out(cls, histories: EventHistories) -> "Split":
        """What the refit trains on: every interaction."""
        return cls(histories, histories.offsets[1:], histories.offsets[1:])

    @property
    def begins(self) -> Tensor:
        """Where each user's items begin, int64 (U,)."""
        return self.histories.offsets[:-1]

    @property
    def ends(self) -> Tensor:
        """The positions after each user's last item, int64 (U,)."""
        return self.histories.offsets[1:]

    @property
    def train(self) -> Tensor:
        """Positions of training targets: before validation, and not a user's first.

        As many as interactions, so of the smallest dtype.
        """
        targets = self._between(torch.minimum(self.begins + 1, self.valid_from), self.valid_from)
        return targets.nonzero().squeeze(1).to(self.histories.position_dtype)

    @property
    def valid(self) -> Tensor:
        """Positions int64 of each user's first item in validation, where items come before it."""
        chosen = (self.begins < self.valid_from) & (self.valid_from < self.test_from)
        return self.valid_from[chosen]

    @property
    def tested(self) -> Tensor:
        """The users with anything in the test, int64 (T,)."""
        return (self.test_from < self.ends).nonzero().squeeze(1)

    @property
    def in_test(self) -> Tensor:
        """Which interactions are in the test, bool (N,)."""
        return self._between(self.test_from, self.ends)

    def before(self, cut: Tensor) -> EventHistories:
        """What each user did before a position of theirs, int64 (U,)."""
        return self._only(self._between(self.begins, cut)).histories

    def without_test(self) -> "Split":
        """All that training may know of."""
        return self._only(~self.in_test)

    def without(self, dropped: Tensor) -> "Split":
        """The same split of the interactions that are not dropped, bool (N,)."""
        return self._only(~dropped)

    def _only(self, kept: Tensor) -> "Split":
        moved = torch.zeros(len(kept) + 1, dtype=torch.int64)
        torch.cumsum(kept, 0, out=moved[1:])
        histories = EventHistories(self.histories.items[kept], moved[self.histories.offsets])
        return Split(histories, moved[self.valid_from], moved[self.test_from])

    def _between(self, begins: Tensor, ends: Tensor) -> Tensor:
        """Which positions lie in one of the disjoint ranges, bool (N,)."""
        change = torch.zeros(len(self.histories.items) + 1, dtype=torch.int8)
        one = torch.ones(len(begins), dtype=torch.int8)
        change.index_add_(0, begins, one)
        change.index_add_(0, ends, -one)
        return change.cumsum(0, dtype=torch.int8)[:-1].bool()


def leave_one_out(histories: EventHistories) -> Split:
    """The last item of each user for the test, the one before for validation, as RecBole.

    Users with two interactions are tested but not validated on; users with one only train.
    """
    ends, counts = histories.offsets[1:], histories.offsets.diff()
    return Split(histories, ends - (counts >= 2).long() - (counts >= 3).long(),
                 ends - (counts >= 2).long())  # fmt: skip


def by_time(histories: EventHistories, before_valid: Tensor, before_test: Tensor) -> Split:
    """The same two instants for everybody, given how many events each user has before them.

    Args:
        histories: N items of U users.
        before_valid: int64 (U,).
        before_test: int64 (U,).
    """
    begins = histories.offsets[:-1]
    return Split(histories, begins + before_valid, begins + before_test)


def window_begins(settings: Settings, run_date: date) -> tuple[datetime, datetime]:
    """When validation and test begin, of a time split; the test ends with the run date."""
    evaluate = settings.evaluate
    last_day = run_date - timedelta(days=evaluate.test_days)
    return (
        run_end(last_day - timedelta(days=evaluate.valid_days), settings.time_zone),
        run_end(last_day, settings.time_zone),
    )


def held_out(
    settings: Settings, run_date: date, prepared: Prepared, histories: EventHistories
) -> Split:
    """Split the prepared histories as the settings ask.

    Raises:
        InputError: nobody is left to test on.
    """
    evaluate = settings.evaluate
    if evaluate.split == "time":
        begins = window_begins(settings, run_date)
        split = by_time(histories, *events_before(prepared.folder, begins))
        if not len(split.tested):
            raise InputError(
                "nobody to evaluate on: no event in the test's days",
                str(prepared.folder),
                expected=f"events from {begins[1]:%Y-%m-%d %H:%M} UTC to the end of {run_date}",
                found=f"the last event at {prepared.last_event:%Y-%m-%d %H:%M} UTC",
                remedy="Set evaluate.test_days to more days, or take an earlier run date.",
            )
        return split
    split = leave_one_out(histories)
    if not len(split.tested):
        raise InputError(
            "nobody to evaluate on",
            str(prepared.folder),
            expected="a user with at least two interactions",
            found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
        )
    return split
