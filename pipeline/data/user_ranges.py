"""Ranges of user ids with about equally many events each, which may be sorted one by one."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.schema import USER_ID

_SAMPLE = 100_000  # events, about, whose users say where the ranges end


@dataclass(frozen=True)
class UserRange:
    """The users whose ids are in an interval; texts are in the order of their UTF-8 bytes.

    Attributes:
        begin: The first id; None for no limit.
        end: The first id after them; None for no limit.
    """

    begin: int | str | None = None
    end: int | str | None = None

    @property
    def conditions(self) -> list[ds.Expression]:
        """The conditions on an event, all of which hold for those of the users."""
        user = ds.field(USER_ID)
        first = [] if self.begin is None else [user >= self.begin]
        return first if self.end is None else [*first, user < self.end]

    @property
    def sql(self) -> str:
        """The condition on a row in DuckDB, with the parameters `begin` and `end`."""
        return f"($begin IS NULL OR {USER_ID} >= $begin) AND ($end IS NULL OR {USER_ID} < $end)"


EVERYBODY = UserRange()


def user_ranges(users: Iterable[pa.RecordBatch], n_events: int, count: int) -> list[UserRange]:
    """Ranges that hold every user once, in order.

    Args:
        users: The ids of all events' users, one column.
        n_events: How many, at least about.
        count: The number of ranges; there are fewer where few users have most events.
    """
    if count == 1:
        return [EVERYBODY]
    step = max(1, n_events // _SAMPLE)
    sample = pa.concat_arrays([batch.column(0)[::step] for batch in users]).sort()
    bounds = [sample[len(sample) * number // count].as_py() for number in range(1, count)]
    # None of them where a range would be empty, as that of the least user or one range twice.
    kept = [bound for bound in dict.fromkeys(bounds) if bound != sample[0].as_py()]
    return [UserRange(begin, end) for begin, end in pairwise([None, *kept, None])]
