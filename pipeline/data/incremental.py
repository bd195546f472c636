"""Prepare from an earlier prepared folder: only what changed in `interactions` since is read.

The events that came and went are found by the table's log, and merged into the earlier histories,
bucket by bucket. The result is, byte for byte, that of a prepare from the beginning.
"""

import logging
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.config.sections import PrepareSettings
from pipeline.data.changed_groups import by_bucket, find_groups
from pipeline.data.event_rows import EventRows
from pipeline.data.event_types import EventTypes
from pipeline.data.item_counts import ItemCounts, Vocabulary, extend_vocabulary
from pipeline.data.merge_histories import BucketHistories, Events, parts
from pipeline.data.sequence_files import BucketFile, Totals
from pipeline.results import Prepared
from pipeline.schema import (
    EVENT_TYPE,
    EVENT_TYPES_FILE,
    ITEM_ID,
    ITEM_INDEX,
    ITEMS_FILE,
    SEQUENCES,
    TIME,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    VOCABULARY,
    prepared_schema,
)
from pipeline.storage.locations import Warehouse
from pipeline.storage.prepared_folder import (
    PreparedFiles,
    open_prepared,
    read_sequences,
    sequence_files,
)
from pipeline.storage.scratch_db import scalar
from pipeline.warehouse.changed_files import changed_files
from pipeline.warehouse.tables import count_rows, open_table, table_id

_EVENT = (USER_ID, ITEM_ID, TIMESTAMP, "source_file", "source_row")
_MOST_CHANGED = 0.2  # of the events; beyond it, a prepare from the beginning costs less
_FEW = 100_000  # events that are merged in any case


logger = logging.getLogger(__name__)


class NotIncrementalError(Exception):
    """Why the histories have to be prepared from the beginning."""


def mergeable(earlier: Prepared | None, rows: EventRows, limits: PrepareSettings) -> Prepared:
    """What was prepared before, if what changed since can be merged into it.

    Raises:
        NotIncrementalError: it cannot.
    """
    if earlier is None:
        raise NotIncrementalError("there are no earlier histories")
    if limits != PrepareSettings() or not earlier.has_all:
        raise NotIncrementalError("settings of [prepare] leave events out")
    if earlier.interactions_id != table_id(rows.table):
        raise NotIncrementalError("the table of interactions was made anew")
    if earlier.interactions_version > rows.table.version():
        raise NotIncrementalError("the earlier histories are of a later version of the table")
    if earlier.end is None or earlier.end > rows.end:
        raise NotIncrementalError("the earlier histories are of a later run date")
    return earlier


def update_prepared(
    earlier: Prepared,
    rows: EventRows,
    warehouse: Warehouse,
    folder: Path,
    db: duckdb.DuckDBPyConnection,
    *,
    event_types: bool,
) -> tuple[Vocabulary, Totals]:
    """Write a prepared folder by merging what changed since an earlier one.

    Args:
        earlier: Of the same table, without k-core limits, up to the same instant or before.
        rows: The events.
        warehouse: With the vocabulary.
        folder: The new prepared folder, empty.
        db: A scratch database, empty.
        event_types: Whether the histories have types of events.

    Returns:
        All items that have an index, and the totals of the histories.

    Raises:
        NotIncrementalError: it cannot be done, or not at less cost.
        ConflictError: another run wrote to the vocabulary meanwhile.
    """
    known = open_table(warehouse.table(VOCABULARY))
    n_known = count_rows(known) if known else 0
    if known is None or table_id(known) != earlier.vocabulary_id or n_known < earlier.n_items - 1:
        raise NotIncrementalError("the vocabulary was made anew, or lost items")
    files = open_prepared(earlier.folder, earlier.content_hash)
    columns = prepared_schema(rows.type_of(USER_ID), event_types=event_types)
    if files is None or files.columns != columns:
        raise NotIncrementalError(f"{earlier.folder} is not what it was, or of other columns")
    event = (*_EVENT, EVENT_TYPE) if event_types else _EVENT
    has_old = _find_changes(earlier, rows, event, db)
    n_new, n_gone = (scalar(db, f"SELECT count(*) FROM {name}") for name in ("added", "gone"))
    types, moved = _find_types(files, db)
    if has_old:
        find_groups(files, rows, event, db)
    db.execute(
        f"""CREATE TABLE first_events AS
        SELECT {ITEM_ID}, min(row({TIMESTAMP}, source_file, source_row)) AS first_event
        FROM added GROUP BY {ITEM_ID}"""
    )
    vocabulary = extend_vocabulary(
        warehouse.table(VOCABULARY), rows.type_of(ITEM_ID), "first_events", db
    )
    counts = ItemCounts.read(files.items(), len(vocabulary.ids))
    added = list(by_bucket("added", vocabulary.ids, types, db))
    groups = list(by_bucket("groups", None, None, db))

    (folder / SEQUENCES).mkdir()
    totals = Totals()
    unsure = np.zeros(len(vocabulary.ids), bool)
    for number, path in enumerate(sequence_files(folder)):
        with BucketFile(path, columns, totals) as file:
            for histories, (new, replaced) in parts(
                files.bucket(number), added[number], groups[number], moved=moved
            ):
                gone = _gone(histories, replaced)
                if gone is not None:
                    items = histories.items[gone]
                    counts.take_away(items)
                    unsure[items[counts.are_last(items, histories.times[gone])] - 1] = True
                counts.add(new.items, new.times)
                unsure[new.items[counts.are_last(new.items, new.times)] - 1] = False
                if len(new) or gone is not None:
                    histories = histories.merged(new, gone)
                if len(histories.users):
                    file.add(histories.rows())
    if unsure.any():
        _see_again(folder, unsure, counts)
    counts.write(folder / ITEMS_FILE, vocabulary.ids)
    if types is not None:
        types.write(folder / EVENT_TYPES_FILE)
    message = "merged %d new events into the histories of %s; %d events went"
    logger.info(message, n_new, earlier.folder, n_gone)
    return vocabulary, totals


def _find_changes(
    earlier: Prepared, rows: EventRows, event: tuple[str, ...], db: duckdb.DuckDBPyConnection
) -> bool:
    """Make the tables `added` and `gone` of events, and `late` of those in the past among `added`.

    The events have the columns `event`.

    Returns:
        Whether there is any but newer events than all the earlier ones.
    """
    files = changed_files(rows.table, earlier.interactions_version)
    if files is None:
        raise NotIncrementalError("the log of the table does not say what changed")
    most = max(_FEW, _MOST_CHANGED * earlier.n_interactions)
    if files.added.count_rows() + files.removed.count_rows() > most:
        raise NotIncrementalError("too much of the table was written anew")
    time = ds.field(TIMESTAMP)
    end = pa.scalar(earlier.end, TIME)
    for name, dataset, chosen in (
        ("came", files.added, time < end),
        ("went", files.removed, time < end),
        ("later", rows.dataset, (time >= end) & (time < pa.scalar(rows.end, TIME))),
    ):
        db.register("read", dataset.scanner(list(event), filter=chosen).to_reader())
        db.execute(f"CREATE TABLE {name} AS SELECT {', '.join(event)} FROM read")
    # Most of what comes and goes is the same rows in other files.
    db.execute("CREATE TABLE late AS FROM came EXCEPT ALL FROM went")
    db.execute("CREATE TABLE gone AS FROM went EXCEPT ALL FROM came")
    db.execute("CREATE TABLE added AS FROM late UNION ALL FROM later")
    db.execute(f"CREATE TABLE groups AS SELECT DISTINCT {USER_ID}, {TIMESTAMP} FROM gone")
    has_old = bool(scalar(db, "SELECT (SELECT count(*) FROM late) + count(*) FROM gone"))
    if scalar(db, "SELECT count(*) FROM added") > most:
        raise NotIncrementalError("too many events are new")
    return has_old


def _find_types(
    files: PreparedFiles, db: duckdb.DuckDBPyConnection
) -> tuple[EventTypes | None, NDArray[np.int32] | None]:
    """The types of events after the changes, and where the index of each earlier one moved.

    Returns:
        None and None where the histories have no types; for the second, see
        `EventTypes.moved_from`.
    """
    if files.event_types is None:
        return None, None
    earlier = EventTypes.read(pa.BufferReader(files.event_types))
    db.register("earlier_types", earlier.counts)
    counts = db.sql(
        f"""SELECT {EVENT_TYPE}, sum(n) AS n_events FROM (
            SELECT {EVENT_TYPE}, n_events AS n FROM earlier_types
            UNION ALL SELECT {EVENT_TYPE}, 1 FROM added
            UNION ALL SELECT {EVENT_TYPE}, -1 FROM gone
        ) GROUP BY {EVENT_TYPE}"""
    ).to_arrow_table()
    types = EventTypes.of(counts)
    return types, types.moved_from(earlier)


def _gone(histories: BucketHistories, groups: Events) -> NDArray[np.bool_] | None:
    """Which events of the histories are of the users and times in `groups`; None for none."""
    if not len(groups):
        return None
    first, last = histories.span(groups)
    change = np.zeros(len(histories.times) + 1, np.int32)
    np.add.at(change, first, 1)
    np.add.at(change, last, -1)
    gone: NDArray[np.bool_] = np.cumsum(change[:-1]) > 0
    return gone if gone.any() else None


def _see_again(folder: Path, unsure: NDArray[np.bool_], counts: ItemCounts) -> None:
    """Find when the items were last seen that lost their last event."""
    counts.forget_last(unsure)
    for batch in read_sequences(folder, [USER_ID, TIMESTAMPS, ITEM_INDEX]):
        histories = BucketHistories.of(batch)
        seen = unsure[histories.items - 1]
        counts.see(histories.items[seen], histories.times[seen])
