"""The files of `score.candidates` and `score.exclude`: rows of a user and an item, any number."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError, SchemaError
from pipeline.logs.conversion import ID_TYPES, plain_id_type, plain_ids, widest_id_type
from pipeline.logs.id_lists import check_same_kind
from pipeline.logs.log_content import read_batches, read_footer, readable
from pipeline.logs.log_files import LogFile, list_log_files
from pipeline.logs.validation import check_not_twice
from pipeline.results import PairCounts
from pipeline.schema import ITEM_ID, ITEM_INDEX, PAD, USER_ID
from pipeline.scoring.history_source import HistorySource
from pipeline.scoring.user_histories import Integers
from pipeline.scoring.user_lists import UserItems, UserLists
from pipeline.storage.resources import ResourceSettings
from pipeline.storage.scratch_db import scalar, temporary_database

_BATCH_ROWS = 2**20


def user_list_hash(path: str) -> str:
    """What identifies the content of the files under a path.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    total = hashlib.sha256()
    for file in list_log_files(path):
        with readable(file), file.filesystem.open_input_file(file.path) as source:
            total.update(hashlib.file_digest(source, "sha256").digest())
    return total.hexdigest()


def read_user_lists(
    settings: ScoreSettings, source: HistorySource, items: pa.Table, resources: ResourceSettings
) -> UserLists:
    """What the settings list per user.

    Args:
        settings: `candidates`, `exclude` and `accept_unknown_deny` are used.
        source: The histories of the run, with whose users the files are compared.
        items: The bundle's items, V-1 rows in index order from 1.
        resources: The memory and the threads to sort the rows with.

    Raises:
        InputError: a file is missing or cannot be read.
        SchemaError: it has no columns `user_id` and `item_id`, or their ids are of another kind.
        ConfigError: no user or no item of the candidates is known, or none of what is excluded.
    """

    def read(path: str, setting: str, *, required: bool) -> UserItems:
        found = _read(path, source.types.user, items, resources)
        counts = found.counts
        if not len(found.items) and (required or counts.unknown_rows):
            _check(required, settings, setting, path, "item", f"{counts.unknown_rows:,} other rows")
        elif len(found.items) and not _any_user(source, found):
            users = f"{len(found.user_id):,} other users"
            _check(required, settings, setting, path, "user", users)
        return found

    candidates, exclude = settings.candidates, settings.exclude
    return UserLists(
        None if candidates is None else read(candidates, "score.candidates", required=True),
        None if exclude is None else read(exclude, "score.exclude", required=False),
    )


def _check(
    required: bool, settings: ScoreSettings, setting: str, path: str, what: str, found: str
) -> None:
    """Raise an error about a file of which nothing is known, unless the settings accept it."""
    if not required and settings.accept_unknown_deny:
        return
    known = "an item of this model" if what == "item" else "in the input"
    raise ConfigError(
        f"none of the {what}s of {setting} is {known}",
        path,
        found=found,
        remedy="Check the file"
        + (
            ", or leave the setting out."
            if required
            else ", or set score.accept_unknown_deny = true."
        ),
    )


def _any_user(source: HistorySource, listed: UserItems) -> bool:
    """Whether some user of the input is listed; the first batch nearly always answers."""
    return any((listed.places(user_id.drop_null()) >= 0).any() for user_id in source.user_ids())


def _read(path: str, user: pa.DataType, items: pa.Table, resources: ResourceSettings) -> UserItems:
    """The items of each user in the files under a path."""
    known = items[ITEM_ID].combine_chunks()
    known = known.cast(widest_id_type(known.type))
    files = [file for file in list_log_files(path) if _has_rows(file, user, known.type)]
    nulls = unknown = 0
    with temporary_database(resources) as base:
        base.register("batch", _schema(user).empty_table())
        base.execute("CREATE TABLE pairs AS FROM batch")
        for batch in (batch for file in files for batch in _batches(file, user, known)):
            whole = batch.filter(pc.and_(batch[USER_ID].is_valid(), batch["has_item"]))
            pairs = whole.filter(whole[ITEM_INDEX].is_valid()).select(_schema(user).names)
            nulls += len(batch) - len(whole)
            unknown += len(whole) - len(pairs)
            base.register("batch", pairs)
            base.execute("INSERT INTO pairs FROM batch")
        n_rows = scalar(base, "SELECT count(*) FROM pairs")
        rows = base.sql("FROM pairs GROUP BY ALL ORDER BY ALL").to_arrow_reader(_BATCH_ROWS)
        user_id, offsets, index = _grouped(rows, user)
    return UserItems(
        user_id,
        offsets,
        index,
        PairCounts(null_rows=nulls, repeated_rows=n_rows - len(index), unknown_rows=unknown),
    )


def _has_rows(file: LogFile, user: pa.DataType, item: pa.DataType) -> bool:
    """Whether a file has rows; then its columns are checked."""
    footer = read_footer(file)
    if footer.num_rows == 0:
        return False
    for name, expected, origin in ((USER_ID, user, "the input"), (ITEM_ID, item, "the bundle")):
        check_not_twice(footer.columns, name, file.path)
        place = footer.columns.get_field_index(name)
        kind = None if place < 0 else plain_id_type(footer.columns.field(place).type)
        if kind is None:
            raise SchemaError(
                f"no column {name!r} of ids",
                file.path,
                expected=f"{USER_ID} and {ITEM_ID}: {ID_TYPES}",
                found=", ".join(f"{field.name} {field.type}" for field in footer.columns),
            )
        if not pa.types.is_null(kind):  # that of text files, or of a column without a value
            check_same_kind(kind, file.path, expected, origin)
    return True


def _batches(file: LogFile, user: pa.DataType, known: pa.Array) -> Iterator[pa.Table]:
    """The rows of a file: `user_id`, `item_index` (null if unknown), and whether it has an item."""
    with readable(file):
        for batch in read_batches(file, [USER_ID, ITEM_ID], _BATCH_ROWS):
            user_id = plain_ids(batch[USER_ID], widest_id_type(user), file.path)
            item_id = plain_ids(batch[ITEM_ID], known.type, file.path)
            index = pc.add(pc.index_in(item_id, value_set=known), PAD + 1)
            columns = [user_id, index.cast(pa.int32()), item_id.is_valid()]
            yield pa.table(columns, names=[*_schema(user).names, "has_item"])


def _grouped(
    rows: Iterable[pa.RecordBatch], user: pa.DataType
) -> tuple[pa.Array, Integers, NDArray[np.int32]]:
    """The users, their offsets and their items; a user may span several batches."""
    kind = pa.int64() if pa.types.is_integer(user) else pa.large_string()
    users, lengths, items = [pa.array([], kind)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for batch in rows:
        runs = pc.run_end_encode(batch[USER_ID], run_end_type=pa.int64())
        users.append(runs.values.cast(kind))
        lengths.append(np.diff(runs.run_ends.to_numpy(), prepend=0))
        items.append(batch[ITEM_INDEX].to_numpy())
    user_id, length = pa.concat_arrays(users), np.concatenate(lengths)
    begins = np.cumsum(length) - length
    first = np.ones(len(user_id), bool)
    first[1:] = np.asarray(pc.not_equal(user_id[1:], user_id[:-1]))
    offsets = np.append(begins[first], length.sum())
    return user_id.filter(pa.array(first)), offsets, np.concatenate(items)


def _schema(user: pa.DataType) -> pa.Schema:
    return pa.schema([(USER_ID, widest_id_type(user)), (ITEM_INDEX, pa.int32())])
