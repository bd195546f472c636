"""Which segment each user is in: by files of ids, and by conditions on the users table."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.rule_tables import SegmentSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError
from pipeline.logs.conversion import widest_id_type
from pipeline.logs.id_lists import id_list_hash, read_ids
from pipeline.logs.id_tables import id_table_hash
from pipeline.logs.users_table import read_users_table
from pipeline.rules.attributes import check_distinct_names
from pipeline.rules.conditions import rows_that
from pipeline.schema import USER_ID


@dataclass(frozen=True)
class UserSegments:
    """The segments that U users are in.

    Attributes:
        names: The segments' names, in the order of the settings.
        user_id: (U,) distinct ids, ascending, of a `widest_id_type`.
        number: (U,) int64, the number of each user's segment, from 1.
    """

    names: tuple[str, ...]
    user_id: pa.Array
    number: NDArray[np.int64]

    def of(self, user_id: pa.Array) -> NDArray[np.int64]:
        """(N,) the numbers of users' segments; 0 for a user in none."""
        if not len(user_id):
            return np.zeros(0, np.int64)
        user_id = user_id.cast(self.user_id.type)
        # Users mostly come in order, so that a few of the ids suffice.
        least, greatest = pc.min_max(user_id).as_py().values()
        begin = bisect_left(self.user_id, least, key=_value)
        end = bisect_right(self.user_id, greatest, key=_value)
        place = pc.index_in(user_id, value_set=self.user_id[begin:end]).fill_null(end - begin)
        return np.append(self.number[begin:end], 0)[place.to_numpy()]

    def listed(self) -> NDArray[np.int64]:
        """(S+1,) how many users are listed for each segment, from 0, which has none."""
        return np.bincount(self.number, minlength=len(self.names) + 1)


def user_segments(
    settings: ScoreSettings, users_table: str | None, kind: pa.DataType, origin: str
) -> UserSegments:
    """The users of the segments of the settings; a user of several is in the first of them.

    Args:
        settings: `segment` is used.
        users_table: What is known of the users: see `read_users_table`. It is read where a segment
            needs it.
        kind: The type of the user ids of the input.
        origin: The input, for errors.

    Raises:
        ConfigError: there is no users table, or an expression cannot be used with its columns.
        InputError: a file of ids or the users table cannot be read.
        SchemaError: its ids are of another kind than `kind`, or its columns cannot be used.
    """
    table = None
    if (segment := _first_by_table(settings.segment)) is not None:
        if users_table is None:
            raise ConfigError(
                "no users table is set, whose users the expression could choose",
                _setting(segment),
                expected="the setting users.path, or the path of a file of ids",
                found=repr(segment.users),
                remedy="A path is one word with a dot or a slash, or begins with ./ or a slash.",
            )
        table = read_users_table(users_table, kind, origin)
        check_distinct_names(table.column_names, users_table)
    listed = [_users_of(segment, table, kind, origin) for segment in settings.segment]
    names = tuple(segment.name for segment in settings.segment)
    ids = pa.concat_arrays([pa.array([], widest_id_type(kind)), *listed])
    numbers = np.repeat(np.arange(1, len(listed) + 1), [len(each) for each in listed])
    unique = ids.dictionary_encode()
    first = np.unique(unique.indices.to_numpy(), return_index=True)[1]
    order = pc.sort_indices(unique.dictionary)
    return UserSegments(names, unique.dictionary.take(order), numbers[first[order.to_numpy()]])


def segment_files(settings: ScoreSettings, users_table: str | None) -> list[str]:
    """The paths of all that decides who is in which segment: files of ids, the users table."""
    return [*_id_files(settings.segment), *_needed_table(settings, users_table)]


def segment_file_hashes(settings: ScoreSettings, users_table: str | None) -> dict[str, str]:
    """The hashes of the content of `segment_files`, by path.

    Raises:
        InputError: one is missing or cannot be read.
    """
    hashes = {path: id_list_hash(path) for path in _id_files(settings.segment)}
    tables = _needed_table(settings, users_table)
    return {**hashes, **{path: id_table_hash(path, USER_ID) for path in tables}}


def _users_of(
    segment: SegmentSettings, table: pa.Table | None, kind: pa.DataType, origin: str
) -> pa.Array:
    if segment.file is not None or table is None:
        return read_ids(os.fspath(segment.users), USER_ID, kind, origin)
    chosen = rows_that(segment.users, table, _setting(segment))
    return table[USER_ID].filter(pa.array(chosen)).combine_chunks()


def _first_by_table(segments: Iterable[SegmentSettings]) -> SegmentSettings | None:
    return next((segment for segment in segments if segment.file is None), None)


def _id_files(segments: Iterable[SegmentSettings]) -> list[str]:
    return [segment.file for segment in segments if segment.file is not None]


def _needed_table(settings: ScoreSettings, users_table: str | None) -> list[str]:
    is_needed = users_table is not None and _first_by_table(settings.segment) is not None
    return [users_table] if is_needed and users_table is not None else []


def _value(user_id: pa.Scalar) -> int | str:
    value: int | str = user_id.as_py()
    return value


def _setting(segment: SegmentSettings) -> str:
    return f"score.segment {segment.name!r} users"
