"""The realised hit rate: how often published lists held what their users then took."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.errors import naming
from pipeline.schema import EVENT_TYPE, INTERACTIONS, ITEM_ID, TIMESTAMP, USER_ID
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scratch_database
from pipeline.warehouse.commits import place_of
from pipeline.warehouse.lists import PublishedLists, entries_sql
from pipeline.warehouse.tables import dataset_of, open_table


@dataclass(frozen=True)
class Taken:
    """Events after some lists were made.

    Attributes:
        version: Of the table `interactions`.
        since: The last instant that the lists' run knew.
        until: The first instant that does not count.
        event_types: Only events of one of these types; empty for all.
    """

    version: int
    since: datetime
    until: datetime
    event_types: tuple[str, ...]


def realised_hits(
    lists: PublishedLists, taken: Taken, popular: pa.Array, locations: RunLocations
) -> Mapping[str, float]:
    """Measure published lists by what users took afterwards.

    Args:
        lists: An earlier run date's recommendations.
        taken: The events that count.
        popular: All items, the most popular first when the lists were made: as many as the longest
            list has are the baseline, the same for every user.
        locations: The tables, and scratch space.

    Returns:
        ``HR``, the share of users who took something of their list, among those with a list and an
        event; ``event_HR``, the share of their events that their lists held; both of the baseline
        (``popularity_HR``, ``popularity_event_HR``); and ``n_users``, ``n_events``. Empty where
        there is no such user.
    """
    uri = locations.warehouse.table(INTERACTIONS)
    table = open_table(uri, taken.version)
    assert table is not None
    time = ds.field(TIMESTAMP)
    chosen = (time > pa.scalar(taken.since)) & (time < pa.scalar(taken.until))
    if taken.event_types:
        chosen &= ds.field(EVENT_TYPE).isin(taken.event_types)
    events = dataset_of(table).scanner([USER_ID, ITEM_ID], filter=chosen).to_reader()
    with scratch_folder(locations) as folder, scratch_database(folder, locations.resources) as db:
        with naming(uri):
            db.register("events", events)
            db.execute(f"CREATE TABLE taken AS SELECT {USER_ID}, {ITEM_ID} FROM events")
        rows = lists.rows()
        entries = entries_sql("rows", rows.schema)
        with naming(place_of(lists.table)):
            db.register("rows", rows)
            db.execute(f"CREATE TABLE lists AS FROM ({entries}) SEMI JOIN taken USING ({USER_ID})")
        ((longest,),) = db.execute(
            f"SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM lists GROUP BY {USER_ID})"
        ).fetchall()
        db.register("baseline", pa.table({ITEM_ID: popular[:longest]}))
        ((n_users, *figures),) = db.execute(
            f"""SELECT count(*), avg(CAST(held > 0 AS INTEGER)), sum(held) / sum(n),
                       avg(CAST(popular > 0 AS INTEGER)), sum(popular) / sum(n), sum(n)
            FROM (
                SELECT count(*) AS n, count(lists.{ITEM_ID}) AS held,
                       count(baseline.{ITEM_ID}) AS popular
                FROM (FROM taken SEMI JOIN lists USING ({USER_ID})) AS taken
                LEFT JOIN lists USING ({USER_ID}, {ITEM_ID})
                LEFT JOIN baseline USING ({ITEM_ID})
                GROUP BY taken.{USER_ID}
            )"""
        ).fetchall()
    if not n_users:
        return {}
    names = ("HR", "event_HR", "popularity_HR", "popularity_event_HR", "n_events")
    return dict(zip(names, map(float, figures), strict=True)) | {"n_users": float(n_users)}
