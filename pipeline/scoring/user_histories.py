"""Users' histories as flat arrays of item indices, and their division into parts."""

import builtins
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dates import days_before, run_end
from pipeline.errors import InputError
from pipeline.schema import PAD, TIME

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

# A part holds at most this many users and events, which bounds the memory.
PART_USERS = 65_536
PART_EVENTS = 8 * 2**20


@dataclass
class DroppedRows:
    """Counts of what was left out of the input; complete when all histories were read."""

    by_reason: Counter[str] = field(default_factory=Counter)  # rows that break a row rule
    filtered: int = 0  # rows that `logs.keep` leaves out
    duplicates: int = 0  # exact repeats of an event
    unknown_items: int = 0  # events with items that the bundle does not know
    absent_users: int = 0  # users of the list of users who have no row
    absent_types: set[str] = field(default_factory=set)  # of `score.exclude_seen`, without an event
    skipped_files: set[str] = field(default_factory=set)  # paths


@dataclass(frozen=True)
class UserFilter:
    """The users to score, and the end of their histories.

    Attributes:
        run_date: Later events are dropped.
        time_zone: The IANA time zone of the run date.
        users: The only user ids to score, perhaps of a wider type; None for all users.
        active_within_days: Score only users with an event in this many days up to the run date.
    """

    run_date: date
    time_zone: str
    users: pa.Array | None
    active_within_days: int | None

    def check_present(self, absent: int, where: str) -> None:
        """Check that not all listed users are absent from the input.

        Args:
            absent: The number of listed users without a row in the input.
            where: The input, for the error.

        Raises:
            InputError: all of them are absent, so the list belongs to another input.
        """
        if self.users is not None and absent == len(self.users):
            raise InputError(
                "none of the listed users is in the input",
                where,
                found=f"{absent} other users in the list",
                remedy="Give the list of user ids that belongs to this input.",
            )

    @property
    def end(self) -> datetime:
        """The first instant after the run date."""
        return run_end(self.run_date, self.time_zone)

    @property
    def active_since(self) -> datetime | None:
        """The first instant of the days in which a user must have an event."""
        return days_before(self.run_date, self.active_within_days, self.time_zone)


@dataclass(frozen=True)
class UserHistories:
    """The whole histories of N users, oldest item first.

    Attributes:
        user_id: (N,) ids.
        items: (events,) item indices of all users, one user after another; never PAD.
        offsets: (N+1,) the positions in `items` where each user's items begin, and the end.
        is_seen: (events,) which of them make an item one that its user has seen; None for all.
        is_input: (events,) which of them the model sees; None for all.
    """

    user_id: pa.Array
    items: Integers
    offsets: Integers
    is_seen: Mask | None = None
    is_input: Mask | None = None

    def __len__(self) -> int:
        return len(self.user_id)

    def without_pad(self) -> Self:
        """The same without the PAD that stands for items unknown to the bundle."""
        return self.only(self.items != PAD)

    def seen(self) -> Self:
        """The same users' events that count as seen, alone."""
        return self if self.is_seen is None else self.only(self.is_seen)

    def inputs(self) -> Self:
        """The same users' events that the model sees, alone."""
        return self if self.is_input is None else self.only(self.is_input)

    def only(self, kept: Mask) -> Self:
        """The same users with some of their events, (events,)."""
        before = np.concatenate([[0], np.cumsum(kept)])
        return self._picked(self.user_id, before[self.offsets], kept)

    def filter(self, keep: Mask) -> Self:
        """Only the users where the (N,) mask is true."""
        lengths = self.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        return self._picked(self.user_id.filter(pa.array(keep)), offsets, np.repeat(keep, lengths))

    def take(self, users: Integers) -> Self:
        """The users at some positions, in their order."""
        lengths = self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[users] - offsets[:-1], lengths)
        return self._picked(self.user_id.take(pa.array(users)), offsets, places)

    @property
    def lengths(self) -> Integers:
        """(N,) the number of items per user."""
        return np.diff(self.offsets)

    def slice(self, begin: int, end: int) -> "UserHistories":
        """The users from `begin` up to, but without, `end`."""
        offsets = self.offsets[begin : end + 1]
        events = slice(offsets[0], offsets[-1])
        return self._picked(self.user_id[begin:end], offsets - offsets[0], events)

    def _picked(
        self, user_id: pa.Array, offsets: Integers, events: "Mask | Integers | builtins.slice"
    ) -> Self:
        """Other users and offsets, with some of the events."""
        masks = (mask if mask is None else mask[events] for mask in (self.is_seen, self.is_input))
        return type(self)(user_id, self.items[events], offsets, *masks)


def split_parts(
    histories: Iterable[UserHistories], users: int, events: int = PART_EVENTS
) -> Iterator[UserHistories]:
    """Regroup histories into parts.

    The borders depend on the users alone, not on how `histories` groups them, so that a resumed run
    has the same parts.

    Args:
        histories: Histories in any grouping.
        users: The largest number of users in a part.
        events: The largest number of events in a part of more than one user.
    """
    pending: list[UserHistories] = []
    for more in histories:
        pending.append(more)
        if sum(map(len, pending)) > users or sum(len(each.items) for each in pending) > events:
            rest = join_histories(pending)
            while (end := _part_end(rest, users, events)) < len(rest):
                yield rest.slice(0, end)
                rest = rest.slice(end, len(rest))
            pending = [rest]
    if pending:
        yield join_histories(pending)


def join_histories(several: list[UserHistories]) -> UserHistories:
    """Histories of users one after another, at least one; all or none of them with a mask."""
    if len(several) == 1:
        return several[0]
    begins = np.cumsum([0, *(len(each.items) for each in several[:-1])])
    return UserHistories(
        pa.concat_arrays([each.user_id for each in several]),
        np.concatenate([each.items for each in several]),
        np.concatenate(
            [[0], *(each.offsets[1:] + begin for each, begin in zip(several, begins, strict=True))]
        ),
        _joined([each.is_seen for each in several]),
        _joined([each.is_input for each in several]),
    )


def _joined(masks: list[Mask | None]) -> Mask | None:
    given = [mask for mask in masks if mask is not None]
    return np.concatenate(given) if given else None


def _part_end(histories: UserHistories, users: int, events: int) -> int:
    """The number of users in the first part."""
    fitting = int(np.searchsorted(histories.offsets, events, side="right")) - 1
    return min(users, max(fitting, 1), len(histories))


def not_before(times: pa.Array, instant: datetime) -> Mask:
    """Which times are at or after an instant; a null is not."""
    later = pc.fill_null(pc.greater_equal(times, pa.scalar(instant, TIME)), False)
    mask: Mask = later.to_numpy(zero_copy_only=False)
    return mask


def any_per_user(chosen: Mask, offsets: Integers) -> Mask:
    """(N,) which users have a chosen event.

    Args:
        chosen: Of all events, user after user.
        offsets: (N+1,) the positions where each user's events begin, and the end.
    """
    before = np.concatenate([[0], np.cumsum(chosen)])
    found: Mask = np.diff(before[offsets]) > 0
    return found
