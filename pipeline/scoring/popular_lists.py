"""The lists of users without a known item: the most popular items that each may get."""

from collections.abc import Iterator

import numpy as np

from pipeline.rules.lists import WIDER, Candidates, Lists, Slots, fill_lists
from pipeline.schema import PAD
from pipeline.scoring.eligibility import Eligibility
from pipeline.scoring.user_histories import Integers

_ITEMS = 2**22  # in memory at a time


def popular_lists(
    eligibility: Eligibility, exclude: Integers, top_k: int
) -> Iterator[tuple[Integers, Lists]]:
    """The positions of some of N users, and their lists by popularity.

    Users come again where more items may fill their lists, as many at a time as fit.

    Args:
        eligibility: The items that may be recommended, and the rules on whole lists.
        exclude: (N, E) int64, the items that each user may not get, padded with PAD.
        top_k: K.
    """
    users, count, rules = np.arange(len(exclude)), top_k, eligibility.lists
    most = max([0, *(len(each.items) for each in rules.promoted)])
    while len(users):
        unsure = []
        size = max(1, _ITEMS // (count + exclude.shape[1] + most))
        for some in np.split(users, range(size, len(users), size)):
            never = exclude[some]
            slots = [Slots(each.places, each.popular(never, count)) for each in rules.promoted]
            lists = fill_lists(_most_popular(eligibility, never, count), slots, rules.caps, top_k)
            unsure.append(some[lists.unsure])
            yield some, lists
        users, count = np.concatenate(unsure), WIDER * count


def _most_popular(eligibility: Eligibility, exclude: Integers, count: int) -> Candidates:
    """Each user's most popular items without the excluded ones."""
    popular = eligibility.popular
    width = min(count + exclude.shape[1], len(popular))  # as many are left as there are, or `count`
    column = np.full(len(eligibility.is_new), width)
    column[popular[:width]] = np.arange(width)
    gone = np.zeros((len(exclude), width + 1), bool)  # the last column is for all other items
    np.put_along_axis(gone, column[exclude], True, axis=1)
    order = np.argsort(gone[:, :width], axis=1, kind="stable")[:, :count]
    gone = np.take_along_axis(gone, order, axis=1)
    return Candidates(
        np.where(gone, PAD, popular[order]),
        np.where(gone, np.float32(-np.inf), eligibility.popular_score[order]),
        complete=count >= len(popular),
    )
