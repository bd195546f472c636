"""The events of buckets, and the users and times whose events are all to be replaced."""

import functools
import operator
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.data.event_rows import EventRows
from pipeline.data.event_types import EventTypes, index_of_types
from pipeline.data.merge_histories import Events, parts
from pipeline.schema import (
    EVENT_TYPE,
    EVENT_TYPE_INDEX,
    ITEM_ID,
    ITEM_INDEX,
    TIME,
    TIMESTAMP,
    USER_ID,
)
from pipeline.storage.prepared_folder import BUCKET_SQL, BUCKETS, PreparedFiles

_MOST_DAYS = 31  # that are read one by one
_DAY = 86_400_000_000  # microseconds


def find_groups(
    files: PreparedFiles,
    rows: EventRows,
    event: tuple[str, ...],
    db: duckdb.DuckDBPyConnection,
) -> None:
    """Complete the table `groups`: users and times whose earlier events are all to be replaced.

    They are those that an event came to, as its place among them is known by the log files alone,
    or that an event went from. `added` then holds all their events.
    """
    for number, late in enumerate(by_bucket("late", None, None, db)):
        for histories, (events,) in parts(files.bucket(number), late):
            first, last = histories.span(events)
            tied = pa.array(first < last)
            if pc.any(tied).as_py():
                times = pa.array(events.times).cast(TIME)
                users = events.users.filter(tied)
                db.register("found", pa.table({USER_ID: users, TIMESTAMP: times.filter(tied)}))
                db.execute("INSERT INTO groups FROM found EXCEPT FROM groups")
    found = db.sql(f"SELECT DISTINCT epoch_us({TIMESTAMP}) // {_DAY} FROM groups ORDER BY 1")
    days = [day for (day,) in found.fetchall()]
    if not days:
        return
    near = _on_days(days) & (ds.field(TIMESTAMP) < pa.scalar(rows.end, TIME))
    db.register("near", rows.dataset.scanner(list(event), filter=near).to_reader())
    columns = ", ".join(event)
    db.execute(
        f"""CREATE TABLE added_now AS
        SELECT {columns} FROM added ANTI JOIN groups USING ({USER_ID}, {TIMESTAMP})
        UNION ALL
        SELECT {columns} FROM near SEMI JOIN groups USING ({USER_ID}, {TIMESTAMP})"""
    )
    db.execute("DROP TABLE added")
    db.execute("ALTER TABLE added_now RENAME TO added")


def _on_days(days: list[int]) -> ds.Expression:
    """The condition that an event is of one of these days since the epoch, ordered, or nearly."""
    spans = [(days[0], days[-1])] if len(days) > _MOST_DAYS else [(day, day) for day in days]
    time = ds.field(TIMESTAMP)
    # Constants, so that Delta's statistics spare the files of other days.
    return functools.reduce(
        operator.or_,
        (
            (time >= pa.scalar(first * _DAY, TIME)) & (time < pa.scalar((last + 1) * _DAY, TIME))
            for first, last in spans
        ),
    )


def by_bucket(
    name: str, items: pa.Array | None, types: EventTypes | None, db: duckdb.DuckDBPyConnection
) -> Iterator[Events]:
    """The events of a table per bucket, in order; without the ids of all items, these are 0.

    They have types where all types are given.
    """
    kind = "" if types is None else f", {EVENT_TYPE}"
    item = f"0::INTEGER AS {ITEM_INDEX}" if items is None else ITEM_ID
    place = "" if items is None else ", source_file, source_row"
    rows = db.sql(
        f"""SELECT {USER_ID}, {TIMESTAMP}, {item}{kind}, {BUCKET_SQL} AS bucket FROM {name}
        ORDER BY bucket, {USER_ID}, {TIMESTAMP}{place}"""
    ).to_arrow_table()
    if items is not None:
        index = pc.index_in(rows[ITEM_ID].combine_chunks(), value_set=items)
        rows = rows.append_column(ITEM_INDEX, pc.add(index, 1))
    if types is not None:
        index = index_of_types(rows[EVENT_TYPE].combine_chunks(), types.names)
        rows = rows.append_column(EVENT_TYPE_INDEX, index)
    for bucket in BUCKETS:
        yield Events.of(rows.filter(pc.equal(rows["bucket"], bucket)))
