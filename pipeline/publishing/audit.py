"""What is wrong in the scored parts: their lists beside the histories that they were made from.

Both are read once, side by side, a part at a time: scoring writes its users in the order of the
prepared histories.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.publishing.parts import ScoredParts
from pipeline.rules.user_segments import UserSegments
from pipeline.schema import ITEM_ID, PAD, SCORE, USER_ID
from pipeline.scoring.user_histories import Integers, UserHistories, join_histories
from pipeline.scoring.user_lists import (
    NO_USER_LISTS,
    UserLists,
    among,
    distinct,
    items_left,
    pair_keys,
)
from pipeline.warehouse.lists import list_columns


@dataclass(frozen=True)
class Rules:
    """What lists may hold.

    Attributes:
        item_ids: (V-1,) the ids of the items 1..V-1: the model's, and new ones that it lacks.
        segments: Which of S segments each user is in.
        eligible: (S+1, V) bool, which items may be recommended in any place to users of no segment,
            and of each.
        top_k: (S+1,) int64, likewise K.
        exclude_seen: Whether what a user has seen may not be.
        capped: Whether lists may be shorter than there are items to recommend.
        is_new: (S+1, V) bool, which items may be recommended in the places of new ones; None for
            none.
        n_new: (S+1,) int64, the number of these places; None for none.
        user_lists: The items listed per user.
    """

    item_ids: pa.Array
    segments: UserSegments
    eligible: NDArray[np.bool_]
    top_k: Integers
    exclude_seen: bool
    capped: bool = False
    is_new: NDArray[np.bool_] | None = None
    n_new: Integers | None = None
    user_lists: UserLists = NO_USER_LISTS

    @property
    def new(self) -> NDArray[np.bool_]:
        """(S+1, V) bool, which items are new."""
        return np.zeros_like(self.eligible) if self.is_new is None else self.is_new

    @property
    def n_items(self) -> int:
        """V."""
        return self.eligible.shape[1]


@dataclass
class Findings:
    """Counts of what was found in all lists.

    Attributes:
        mismatch: Where the users are not those of the histories, the first difference, in words;
            what comes after it was not looked at.
        n_users: Users with a list, or rightly without one.
        n_fallback: Those with popular items.
        n_short: Those with fewer than their K items.
        wrong_lengths: Users without exactly as many items as there were to recommend, at most K,
            or with more, where caps may make lists shorter.
        wrong_ranks: Rows whose rank is not their place in the list, from 1.
        repeated: Rows with an item that the list has before.
        not_finite: Rows with a score that is null, NaN or infinite.
        unknown: Rows with an item that the model does not know.
        ineligible: Rows with a known item that is denied, not allowed, or was never trained on, or
            that is not for the user's segment.
        seen: Rows with an item that the user has seen, where these are excluded.
        excluded: Rows with an item that is excluded for its user.
        not_candidates: Rows with an item that is none of its user's candidates, if there are any.
        recommended: (V,) bool, the items that are in some list.
    """

    recommended: NDArray[np.bool_]
    mismatch: str = ""
    n_users: int = 0
    n_fallback: int = 0
    n_short: int = 0
    wrong_lengths: int = 0
    wrong_ranks: int = 0
    repeated: int = 0
    not_finite: int = 0
    unknown: int = 0
    ineligible: int = 0
    seen: int = 0
    excluded: int = 0
    not_candidates: int = 0


@dataclass(frozen=True)
class _UserPairs:
    """The `pair_keys` of what the users of a part have seen, may not and may get."""

    own: Integers  # empty where users may be recommended what they have seen
    excluded: Integers
    candidates: Integers | None

    @property
    def never(self) -> Integers:
        """What users may not get."""
        return distinct(np.append(self.own, self.excluded))


@dataclass(frozen=True)
class _Lists:
    """The lists of the users of a part; of N users with M rows together."""

    user_id: pa.Array  # (N,)
    lengths: Integers  # (N,)
    popular: NDArray[np.bool_]  # (N,)
    item_id: pa.Array  # (M,)
    score: pa.Array  # (M,)
    rank: Integers  # (M,), 0 where it is null


def audit(parts: ScoredParts, histories: Iterator[UserHistories], rules: Rules) -> Findings:
    """Count everything in scored parts that must not be there.

    Args:
        parts: The lists.
        histories: Those of all users to be served, in their order, as the model's item indices.
        rules: What the lists may hold.

    Raises:
        PublishError: a part is not as it was written.
    """
    findings = Findings(np.zeros(rules.n_items, bool))
    is_long = "rank" in parts.dataset.schema.names
    columns = [
        USER_ID,
        *list_columns(parts.dataset.schema),
        *([SCORE] if is_long else []),
        "source",
    ]
    sizes = [part.n_users for part in parts.manifest.parts.values()]
    for table, users in zip(parts.tables(columns), _cut(histories, sizes), strict=False):
        lists = _long(table) if is_long else _nested(table)
        segment, pairs = rules.segments.of(users.user_id), _pairs(users, rules)
        n_left, n_new = (
            items_left(segment, some, pairs.never, pairs.candidates)
            for some in (rules.eligible, rules.new)
        )
        n_left += 0 if rules.n_new is None else np.minimum(n_new, rules.n_new[segment])
        lengths = np.minimum(n_left, rules.top_k[segment])
        place = np.arange(len(users))  # of the users who have rows
        if is_long:
            place = np.flatnonzero(lengths)
        findings.mismatch = _difference(users.user_id.take(pa.array(place)), lists.user_id)
        if findings.mismatch:
            return findings
        _count_users(lists, lengths, place, rules.top_k[segment], rules.capped, findings)
        _count_rows(lists, pairs, place, segment, rules, findings)
    for left in histories:
        if len(left):
            findings.mismatch = f"none for {left.user_id[0]}"
            break
    return findings


def _cut(histories: Iterator[UserHistories], sizes: list[int]) -> Iterator[UserHistories]:
    """Histories regrouped by numbers of users; the last group has all that were read."""
    pending = [next(histories)]
    for place, size in enumerate(sizes, start=1):
        while sum(map(len, pending)) < size and (more := next(histories, None)) is not None:
            pending.append(more)
        joined = join_histories(pending)
        end = len(joined) if place == len(sizes) else size
        yield joined.slice(0, end)
        pending = [joined.slice(end, len(joined))]


def _long(table: pa.Table) -> _Lists:
    user = table[USER_ID].combine_chunks()
    starts_list = pc.not_equal(user[1:], user[:-1]).fill_null(True).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[len(user) > 0], starts_list]))
    first = pa.array(starts)
    return _Lists(
        user.take(first),
        np.diff(starts, append=len(user)),
        _is_popular(table["source"].take(first)),
        table[ITEM_ID].combine_chunks(),
        table[SCORE].combine_chunks(),
        table["rank"].fill_null(0).to_numpy(),
    )


def _nested(table: pa.Table) -> _Lists:
    lists = table["recommendations"].combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    entries = lists.flatten()
    item_id, score = (pc.struct_field(entries, name) for name in (ITEM_ID, SCORE))
    return _Lists(
        table[USER_ID].combine_chunks(),
        lengths.astype(np.int64),
        _is_popular(table["source"]),
        item_id,
        score,
        _places(lengths),  # the order is the rank
    )


def _is_popular(source: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(source, "popular").fill_null(False))


def _places(lengths: Integers) -> Integers:
    """The place of every row in its list, from 1."""
    begins = np.cumsum(lengths) - lengths
    return np.arange(1, lengths.sum() + 1) - np.repeat(begins, lengths)


def _difference(expected: pa.Array, found: pa.Array) -> str:
    """The first place where users differ, in words; empty where they are equal."""
    if expected.equals(found):
        return ""
    both = min(len(expected), len(found))
    differs = pc.not_equal(expected[:both], found[:both]).fill_null(True)
    first = pc.index(differs, True).as_py()
    place = both if first < 0 else first
    if place == len(found):
        return f"none for {expected[place]}"
    if place == len(expected):
        return f"one too many for {found[place]}"
    return f"one for {found[place]} where that for {expected[place]} should be"


def _pairs(users: UserHistories, rules: Rules) -> _UserPairs:
    n_items, nothing, lists = rules.n_items, np.zeros(0, np.int64), rules.user_lists
    own = excluded = nothing
    if rules.exclude_seen:
        seen = users.seen()
        own = pair_keys(np.repeat(np.arange(len(seen)), seen.lengths), seen.items, n_items)
    if lists.exclude is not None:
        excluded = pair_keys(*lists.exclude.pairs(users.user_id), n_items)
    if lists.candidates is None:
        return _UserPairs(own, excluded, None)
    return _UserPairs(own, excluded, pair_keys(*lists.candidates.pairs(users.user_id), n_items))


def _count_users(
    lists: _Lists,
    lengths: Integers,
    place: Integers,
    top_k: Integers,
    capped: bool,
    findings: Findings,
) -> None:
    findings.n_users += len(lengths)
    findings.n_fallback += int(np.count_nonzero(lists.popular))
    expected = lengths[place]
    wrong = lists.lengths > expected if capped else lists.lengths != expected
    full = lists.lengths >= top_k[place] if capped else lengths >= top_k
    findings.n_short += len(lengths) - int(np.count_nonzero(full))
    findings.wrong_lengths += int(np.count_nonzero(wrong))


def _count_rows(
    lists: _Lists,
    known_pairs: _UserPairs,
    place: Integers,
    segment: Integers,
    rules: Rules,
    findings: Findings,
) -> None:
    index = pc.index_in(lists.item_id, value_set=rules.item_ids)
    item = pc.add(index, 1).fill_null(PAD).to_numpy()
    known = item != PAD
    user = np.repeat(place, lists.lengths)
    pairs = np.sort((user * rules.n_items + item)[known])
    finite = pc.is_finite(lists.score).fill_null(False)
    findings.recommended[item[known]] = True
    findings.wrong_ranks += int(np.count_nonzero(lists.rank != _places(lists.lengths)))
    findings.repeated += int(np.count_nonzero(pairs[1:] == pairs[:-1]))
    findings.not_finite += len(finite) - int(pc.sum(finite).as_py() or 0)
    findings.unknown += int(np.count_nonzero(~known))
    allowed = (rules.eligible | rules.new)[segment[user[known]], item[known]]
    findings.ineligible += int(np.count_nonzero(~allowed))
    findings.seen += int(np.count_nonzero(among(pairs, known_pairs.own)))
    findings.excluded += int(np.count_nonzero(among(pairs, known_pairs.excluded)))
    if known_pairs.candidates is not None:
        findings.not_candidates += int(np.count_nonzero(~among(pairs, known_pairs.candidates)))
