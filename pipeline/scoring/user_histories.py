"""Histories of users as flat arrays of item indices: cut into parts, padded into batches."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dates import run_end
from pipeline.errors import InputError
from pipeline.schema import PAD

Integers = NDArray[np.int64]

# A part ends at this many users, or events, whichever comes first: this bounds the memory.
PART_USERS = 65_536
PART_EVENTS = 8 * 2**20

# int64 entries of one batch's `exclude`: somebody with 50,000 items makes the batch smaller.
_EXCLUDE_ENTRIES = 4 * 2**20


@dataclass
class DroppedRows:
    """What reading left out, and why; complete once everything is read."""

    dropped: Counter[str] = field(default_factory=Counter)  # rows by reason of the row rules
    duplicates: int = 0  # exact repeats of (user, item, timestamp)
    unknown_items: int = 0  # events with items the bundle does not know
    absent_users: int = 0  # asked for, but without a row
    skipped_files: set[str] = field(default_factory=set)  # paths


@dataclass(frozen=True)
class UserFilter:
    """Whose histories are asked for, and until when.

    Attributes:
        run_date: Later events are dropped.
        time_zone: Whose calendar the run date is a day of.
        users: Only these ids, if any are given.
        active_within_days: Only users with an event in so many days up to the run date.
    """

    run_date: date
    time_zone: str
    users: pa.Array | None
    active_within_days: int | None

    def refuse_absent(self, absent: int, where: str) -> None:
        """Refuse a list of users of whom so many have no row in the input.

        Raises:
            InputError: that is all of them: the list is another input's.
        """
        if self.users is not None and absent == len(self.users):
            raise InputError(
                "none of the users asked for is in the input",
                where,
                found=f"{absent} others",
                remedy="Give the list of ids that belongs to it.",
            )

    @property
    def end(self) -> datetime:
        """The first instant after the run date."""
        return run_end(self.run_date, self.time_zone)

    @property
    def active_since(self) -> datetime | None:
        """The first instant of the days in which a user must have an event."""
        if self.active_within_days is None:
            return None
        return run_end(self.run_date - timedelta(days=self.active_within_days), self.time_zone)


@dataclass(frozen=True)
class UserHistories:
    """The whole histories of N users, oldest item first.

    Attributes:
        user_id: (N,) ids.
        items: (events,) item indices, flat; never PAD.
        offsets: (N+1,) where each user's items begin, and the end.
    """

    user_id: pa.Array
    items: Integers
    offsets: Integers

    def __len__(self) -> int:
        return len(self.user_id)

    @classmethod
    def of_known(cls, user_id: pa.Array, items: Integers, offsets: Integers) -> Self:
        """Histories without the PAD that stands for items unknown to the bundle."""
        known = items != PAD
        before = np.concatenate([[0], np.cumsum(known)])
        return cls(user_id, items[known], before[offsets])

    def filter(self, keep: NDArray[np.bool_]) -> "UserHistories":
        """Only the users where the (N,) mask is true."""
        lengths = self.lengths
        return UserHistories(
            self.user_id.filter(pa.array(keep)),
            self.items[np.repeat(keep, lengths)],
            np.concatenate([[0], np.cumsum(lengths[keep])]),
        )

    @property
    def lengths(self) -> Integers:
        """(N,) items a user."""
        return np.diff(self.offsets)

    def slice(self, begin: int, end: int) -> "UserHistories":
        """The users from `begin` up to `end`."""
        offsets = self.offsets[begin : end + 1]
        return UserHistories(
            self.user_id[begin:end], self.items[offsets[0] : offsets[-1]], offsets - offsets[0]
        )


@dataclass(frozen=True)
class ScoringBatch:
    """What the recommender takes, and whose it is.

    Attributes:
        rows: (B,) positions of the users in their part.
        item_seq: (B, L) the last L items, right-padded.
        item_seq_len: (B,) from 1.
        exclude: (B, E) distinct items never to recommend, padded; E may be 0.
    """

    rows: Integers
    item_seq: Integers
    item_seq_len: Integers
    exclude: Integers


def split_parts(
    histories: Iterable[UserHistories], users: int, events: int = PART_EVENTS
) -> Iterator[UserHistories]:
    """Regroup histories into parts of at most so many users and events (but one user at least).

    Where the cuts fall depends on the users alone, not on how they arrive.
    """
    pending: list[UserHistories] = []
    for more in histories:
        pending.append(more)
        if sum(map(len, pending)) > users or sum(len(each.items) for each in pending) > events:
            rest = _join(pending)
            while (end := _part_end(rest, users, events)) < len(rest):
                yield rest.slice(0, end)
                rest = rest.slice(end, len(rest))
            pending = [rest]
    if pending:
        yield _join(pending)


def pad(items: Integers, ends: Integers, lengths: Integers, width: int) -> Integers:
    """The last `lengths` items up to each end, right-padded with 0: (B, width).

    Args:
        items: Flat items.
        ends: (B,) the position after each sequence's last item.
        lengths: (B,) at most `width`.
        width: Columns of the result.
    """
    column = np.arange(width)
    inside = column < lengths[:, None]
    padded = np.zeros((len(ends), width), np.int64)
    padded[inside] = items[((ends - lengths)[:, None] + column)[inside]]
    return padded


def batches(
    histories: UserHistories, *, max_length: int, batch_size: int, exclude_seen: bool
) -> Iterator[ScoringBatch]:
    """Batches of all users that have an item.

    Users are taken by the number of items they have met, most first, so that few batches are
    wide in `exclude`.
    """
    lengths = histories.lengths
    seen, ends, widths = histories.items, histories.offsets[1:], np.zeros_like(lengths)
    if exclude_seen:
        seen, ends, widths = _distinct(histories)
    order = np.argsort(-widths, kind="stable")
    order = order[lengths[order] > 0]
    begin = 0
    while begin < len(order):
        width = int(widths[order[begin]])
        size = min(batch_size, max(1, _EXCLUDE_ENTRIES // max(1, width)))
        rows = order[begin : begin + size]
        last = np.minimum(lengths[rows], max_length)
        yield ScoringBatch(
            rows,
            pad(histories.items, histories.offsets[1:][rows], last, max_length),
            last,
            pad(seen, ends[rows], widths[rows], width),
        )
        begin += size


def _distinct(histories: UserHistories) -> tuple[Integers, Integers, Integers]:
    """The distinct items of each user: flat items, ends (N,), counts (N,)."""
    span = int(histories.items.max(initial=0)) + 1
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    # One sort of both together; it leaves every user's events where they are, in `user` too.
    both = np.sort(user * span + histories.items)
    first = np.diff(both, prepend=-1) > 0
    user = user[first]
    items = both[first] - user * span
    counts = np.bincount(user, minlength=len(histories))
    return items, np.cumsum(counts), counts


def _join(several: list[UserHistories]) -> UserHistories:
    if len(several) == 1:
        return several[0]
    begins = np.cumsum([0, *(len(each.items) for each in several[:-1])])
    return UserHistories(
        pa.concat_arrays([each.user_id for each in several]),
        np.concatenate([each.items for each in several]),
        np.concatenate(
            [[0], *(each.offsets[1:] + begin for each, begin in zip(several, begins, strict=True))]
        ),
    )


def _part_end(histories: UserHistories, users: int, events: int) -> int:
    whole = int(np.searchsorted(histories.offsets, events, side="right")) - 1
    return min(users, max(whole, 1), len(histories))
