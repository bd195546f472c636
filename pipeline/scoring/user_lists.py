"""Items listed per user: `score.candidates`, the only ones to recommend, and `score.exclude`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.results import PairCounts
from pipeline.scoring.user_histories import Integers, UserHistories


@dataclass(frozen=True)
class UserItems:
    """Some items of each of U users, in 4 bytes per pair and those of the users' ids.

    Attributes:
        user_id: (U,) int64 or large_string, distinct, ascending; texts by their UTF-8 bytes.
        offsets: (U+1,) int64, the positions in `items` where each user's items begin, and the end.
        items: (M,) int32, item indices, ascending and distinct per user.
        counts: What the file holds.
    """

    user_id: pa.Array
    offsets: Integers
    items: NDArray[np.int32]
    counts: PairCounts

    def places(self, user_id: pa.Array) -> Integers:
        """(N,) the places of N users in `user_id`, -1 for those who are not there."""
        if not len(self.user_id):
            return np.full(len(user_id), -1)
        wanted, last = user_id.cast(self.user_id.type), len(self.user_id) - 1
        low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), last)
        for _ in range(last.bit_length()):  # halves every interval, for all users at once
            middle = (low + high) // 2
            below = _true(pc.less(self.user_id.take(pa.array(middle)), wanted))
            low, high = (
                np.where(below, np.minimum(middle + 1, high), low),
                np.where(below, high, middle),
            )
        return np.where(_true(pc.equal(self.user_id.take(pa.array(low)), wanted)), low, -1)

    def lengths(self, user_id: pa.Array) -> Integers:
        """(N,) the number of items of each of N users."""
        return self._ranges(user_id)[1]

    def pairs(self, user_id: pa.Array) -> tuple[Integers, Integers]:
        """The users' places in `user_id` and their items, (P,) each, both ascending.

        Args:
            user_id: (N,) ids.
        """
        begins, lengths = self._ranges(user_id)
        user = np.repeat(np.arange(len(lengths)), lengths)
        shift = np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
        return user, self.items[shift + np.arange(len(user))].astype(np.int64)

    def _ranges(self, user_id: pa.Array) -> tuple[Integers, Integers]:
        place = self.places(user_id)
        begins = self.offsets[place]
        return begins, np.where(place < 0, 0, self.offsets[place + 1] - begins)


@dataclass(frozen=True)
class UserLists:
    """The items listed per user.

    Attributes:
        candidates: The only items that each user may get; None where users may get any.
        exclude: Items that a user never gets; None for none.
    """

    candidates: UserItems | None = None
    exclude: UserItems | None = None

    def __bool__(self) -> bool:
        return self.candidates is not None or self.exclude is not None


NO_USER_LISTS = UserLists()


class ListedUsers:
    """The users of a scoring run, compared with those of its lists.

    Args:
        lists: The lists.
    """

    def __init__(self, lists: UserLists) -> None:
        given = {"candidates": lists.candidates, "exclude": lists.exclude}
        self._lists = {name: each for name, each in given.items() if each is not None}
        self._met = {name: np.zeros(len(each.user_id), bool) for name, each in self._lists.items()}
        self._without = dict.fromkeys(self._lists, 0)

    def counted(self, histories: Iterable[UserHistories]) -> Iterator[UserHistories]:
        """The same histories, whose users are counted when they are read."""
        for each in histories:
            for name, listed in self._lists.items():
                place = listed.places(each.user_id)
                self._met[name][place[place >= 0]] = True
                self._without[name] += int((place < 0).sum())
            yield each

    @property
    def counts(self) -> dict[str, PairCounts]:
        """What each file holds, and its users beside those counted so far, by name."""
        return {
            name: listed.counts.beside(
                absent_users=int((~self._met[name]).sum()), users_without=self._without[name]
            )
            for name, listed in self._lists.items()
        }


def pair_keys(user: Integers, item: Integers, n_items: int) -> Integers:
    """Pairs of users' places and items as single numbers, ascending and distinct.

    Args:
        user: (P,) places.
        item: (P,) item indices.
        n_items: V.
    """
    return distinct(user * n_items + item)


def distinct(keys: Integers) -> Integers:
    """Numbers from 0, ascending, each once."""
    # Not np.unique, which since numpy 2.3 hashes, ten times slower.
    keys = np.sort(keys)
    return keys[np.diff(keys, prepend=-1) > 0]


def among(keys: Integers, sorted_keys: Integers) -> NDArray[np.bool_]:
    """(P,) which keys are among the others, which are ascending and not negative."""
    ended = np.append(sorted_keys, -1)
    found: NDArray[np.bool_] = ended[np.searchsorted(sorted_keys, keys)] == keys
    return found


def items_left(
    segment: Integers, eligible: NDArray[np.bool_], never: Integers, candidates: Integers | None
) -> Integers:
    """(N,) the number of items that each of N users may get.

    Args:
        segment: (N,) the number of each user's segment, 0 for none.
        eligible: (S+1, V) which items may be recommended to users of no segment, and of each.
        never: The `pair_keys` of what a user may not get.
        candidates: The `pair_keys` of the only items that a user may get; None for any.
    """
    user, item = np.divmod(never if candidates is None else candidates, eligible.shape[1])
    counted = eligible[segment[user], item]
    if candidates is not None:
        return np.bincount(user[counted & ~among(candidates, never)], minlength=len(segment))
    n_gone = np.bincount(user[counted], minlength=len(segment))
    return np.count_nonzero(eligible, axis=1)[segment] - n_gone


def _true(values: pa.Array) -> NDArray[np.bool_]:
    """(N,) bool; null is false."""
    return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False))
