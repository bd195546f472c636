"""Splits: which interactions are trained on, validated on and tested."""

from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from model.training.histories import EventHistories
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import events_before
from pipeline.errors import EmptyTestError
from pipeline.results import Prepared


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
    """A split at two instants, given how many events each user has before them.

    Args:
        histories: N items of U users.
        before_valid: int64 (U,).
        before_test: int64 (U,).
    """
    begins = histories.offsets[:-1]
    return Split(histories, begins + before_valid, begins + before_test)


def split_histories(histories: EventHistories, held_out: HeldOut, prepared: Prepared) -> Split:
    """Split the prepared histories by the rule that holds events out.

    Args:
        histories: Of `prepared`.
        held_out: The rule.
        prepared: The run's events.

    Raises:
        EmptyTestError: no user has a held-out event.
    """
    if held_out.valid_from and held_out.test_from:
        begins = held_out.valid_from, held_out.test_from
        split = by_time(histories, *events_before(prepared.folder, begins))
        if not len(split.tested):
            before = (held_out.test_from - prepared.last_event) // timedelta(days=1) + 1
            enough = int(held_out.rule[1]) + before
            raise EmptyTestError(
                "no user to evaluate: no event in the days of the test",
                str(prepared.folder),
                expected=f"events from {held_out.test_from:%Y-%m-%d %H:%M} UTC on "
                f"({held_out.window})",
                found=f"the last event at {prepared.last_event:%Y-%m-%d %H:%M} UTC",
                remedy=f"Set evaluate.test_days = {enough} or more, or take an earlier run date.",
            )
        return split
    split = leave_one_out(histories)
    if not len(split.tested):
        raise EmptyTestError(
            "no user to evaluate",
            str(prepared.folder),
            expected="a user with at least two interactions",
            found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
        )
    return split
