"""Splits: which interactions are trained on, validated on and tested."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import pyarrow as pa
import torch
from torch import Tensor

from model.training.histories import EventHistories, count_before
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import are_of_types, events_before, read_event_types
from pipeline.errors import EmptyTestError
from pipeline.results import Prepared
from pipeline.storage.prepared_folder import event_type_names

WITHOUT_TYPE = "without a type"


@dataclass(frozen=True)
class EventKinds:
    """The types of the events of a split.

    Attributes:
        index: integer (N,), of each event's type; 0 of an event without one.
        names: (T,) those of the indices from 1.
    """

    index: Tensor
    names: pa.Array


@dataclass(frozen=True)
class Split:
    """Where each user's history is cut: trained on, then validated on, then tested.

    So every interaction is a training target, its user's first, in validation or in the test; or
    it is no target.

    Attributes:
        histories: N items of U users.
        valid_from: int64 (U,), the flat position where a user's validation begins.
        test_from: int64 (U,), and the test, which lasts until the history's end.
        is_target: bool (N,), which interactions are predicted; None for all.
        kinds: The types of the events; None where they have none.
    """

    histories: EventHistories
    valid_from: Tensor
    test_from: Tensor
    is_target: Tensor | None = None
    kinds: EventKinds | None = None

    def nothing_held_out(self) -> "Split":
        """What the refit trains on: every interaction."""
        return replace(self, valid_from=self.ends, test_from=self.ends)

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
        """Positions of training targets: before validation, and not without an input before.

        As many as interactions, so of the smallest dtype.
        """
        targets = self._between(torch.minimum(self.begins + 1, self.valid_from), self.valid_from)
        if self.is_target is not None:
            targets &= self.is_target
        return self._with_inputs(targets.nonzero().squeeze(1).to(self.histories.position_dtype))

    @property
    def valid(self) -> Tensor:
        """Positions int64 of each user's first target in validation, with an input before it."""
        first = self.valid_from
        if self.is_target is not None:
            first = first_from(first, self.is_target)
        return self._with_inputs(first[(self.begins < first) & (first < self.test_from)])

    @property
    def tested(self) -> Tensor:
        """The users with any target in the test, int64 (T,)."""
        first = self.test_from
        if self.is_target is not None:
            first = first_from(first, self.is_target)
        return (first < self.ends).nonzero().squeeze(1)

    @property
    def served(self) -> Tensor:
        """Which users have an input before the test, bool (U,)."""
        served = self.begins < self.test_from
        if self.histories.is_input is not None:
            served[served.clone()] = self.histories.with_inputs(self.test_from[served])
        return served

    @property
    def in_test(self) -> Tensor:
        """Which interactions are in the test, bool (N,)."""
        return self._between(self.test_from, self.ends)

    @property
    def types_in_test(self) -> dict[int, str]:
        """The names of the types that targets of the test have, by their indices."""
        if self.kinds is None:
            return {}
        held_out = self.in_test if self.is_target is None else self.in_test & self.is_target
        found = self.kinds.index[held_out].unique().tolist()
        names = self.kinds.names.to_pylist()
        return {kind: names[kind - 1] if kind else WITHOUT_TYPE for kind in found}

    def weights(self, of_types: Mapping[str, float]) -> Tensor | None:
        """The weights of the training targets by their types, float32; None where all are equal.

        Args:
            of_types: 1 for the types that are not named.
        """
        if not of_types or self.kinds is None:
            return None
        by_index = [1.0, *(of_types.get(name, 1.0) for name in self.kinds.names.to_pylist())]
        return torch.tensor(by_index)[self.kinds.index[self.train.long()].long()]

    def before(self, cut: Tensor) -> EventHistories:
        """What each user did before a position of theirs, int64 (U,)."""
        return self.histories.only(self._between(self.begins, cut))

    def without_test(self) -> "Split":
        """All that training may know of."""
        return self.without(self.in_test)

    def without(self, dropped: Tensor) -> "Split":
        """The same split of the interactions that are not dropped, bool (N,)."""
        kept = ~dropped
        moved = count_before(kept, torch.int64)
        return Split(
            self.histories.only(kept, moved),
            moved[self.valid_from],
            moved[self.test_from],
            None if self.is_target is None else self.is_target[kept],
            self.kinds and replace(self.kinds, index=self.kinds.index[kept]),
        )

    def _with_inputs(self, positions: Tensor) -> Tensor:
        """Those of some positions, none a user's first, that have an input before them."""
        if self.histories.is_input is None:
            return positions
        return positions[self.histories.with_inputs(positions)]

    def _between(self, begins: Tensor, ends: Tensor) -> Tensor:
        """Which positions lie in one of the disjoint ranges, bool (N,)."""
        change = torch.zeros(len(self.histories.items) + 1, dtype=torch.int8)
        one = torch.ones(len(begins), dtype=torch.int8)
        change.index_add_(0, begins, one)
        change.index_add_(0, ends, -one)
        return change.cumsum(0, dtype=torch.int8)[:-1].bool()


def first_from(positions: Tensor, chosen: Tensor) -> Tensor:
    """The first chosen position at or after each position, N where there is none, int64 (B,).

    Args:
        positions: int64 (B,).
        chosen: bool (N,).
    """
    places = torch.nn.functional.pad(chosen.nonzero().squeeze(1), (0, 1), value=len(chosen))
    return places[torch.searchsorted(places, positions)]


def leave_one_out(histories: EventHistories, is_target: Tensor | None = None) -> Split:
    """The last target of each user for the test, the one before for validation, as RecBole.

    A user's first item is neither: users with one target after it are tested but not validated on,
    those without one only train.
    """
    begins, ends, counts = histories.offsets[:-1], histories.offsets[1:], histories.offsets.diff()
    if is_target is None:
        last = ends - (counts >= 2).long()
        return Split(histories, last - (counts >= 3).long(), last)
    places = is_target.nonzero().squeeze(1)
    last = _last_before(ends, begins + 1, places)
    return Split(histories, _last_before(last, begins + 1, places), last, is_target)


def _last_before(positions: Tensor, begins: Tensor, places: Tensor) -> Tensor:
    """The last of some places from a begin to before a position, or the position, int64 (B,)."""
    found = torch.searchsorted(places, positions) - 1
    if not len(places):
        return positions
    last = places[found.clamp(min=0)]
    return torch.where((found >= 0) & (last >= begins), last, positions)


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
        ConfigError: the events have no types, or none that is to be predicted.
    """
    names = event_type_names(prepared.folder)
    kinds = None if names is None else EventKinds(read_event_types(prepared.folder), names)
    is_target = None
    if held_out.targets:
        is_target = are_of_types(prepared.folder, held_out.targets, "event_types.targets")
    of_targets = f" of type {' or '.join(held_out.targets)}" if held_out.targets else ""
    if held_out.valid_from and held_out.test_from:
        begins = held_out.valid_from, held_out.test_from
        split = by_time(histories, *events_before(prepared.folder, begins))
        split = replace(split, is_target=is_target, kinds=kinds)
        if not len(split.tested):
            before = (held_out.test_from - prepared.last_event) // timedelta(days=1) + 1
            enough = int(held_out.rule[1]) + before
            raise EmptyTestError(
                f"no user to evaluate: no event{of_targets} in the days of the test",
                str(prepared.folder),
                expected=f"events{of_targets} from {held_out.test_from:%Y-%m-%d %H:%M} UTC on "
                f"({held_out.window})",
                found=f"the last event at {prepared.last_event:%Y-%m-%d %H:%M} UTC",
                remedy=f"Set evaluate.test_days = {enough} or more, or take an earlier run date.",
            )
        return split
    split = replace(leave_one_out(histories, is_target), kinds=kinds)
    if not len(split.tested):
        raise EmptyTestError(
            "no user to evaluate",
            str(prepared.folder),
            expected=f"a user with an interaction{of_targets} after another"
            if of_targets
            else "a user with at least two interactions",
            found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
        )
    return split
