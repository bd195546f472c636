"""Queries of the tables: a user's events, and the recommendations of some users."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.errors import InputError, naming
from pipeline.schema import (
    BECAUSE,
    EVENT_TYPE,
    INTERACTIONS,
    ITEM_ID,
    RECOMMENDATIONS,
    RUN_DATE,
    SCORE,
    SOURCE,
    TIMESTAMP,
    USER_ID,
)
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.lists import published_dates
from pipeline.warehouse.tables import dataset_of, open_table, read_rows

if TYPE_CHECKING:
    from deltalake import DeltaTable

Id = int | str


@dataclass(frozen=True)
class Recommended:
    """One user's recommendations of one run date, best first.

    Attributes:
        user_id: The user.
        run_date: Of the recommendations.
        model_version: Of the model that made them.
        source: Of the list: `popular` or `model`.
        items: Item ids and scores.
        sources: The source of each item.
        because: The item of the user's history that stands for each; empty where the table says
            none.
    """

    user_id: Id
    run_date: date
    model_version: str
    source: str
    items: tuple[tuple[Id, float], ...]
    sources: tuple[str, ...]
    because: tuple[Id | None, ...] = ()


@dataclass(frozen=True)
class Event:
    """One interaction."""

    item_id: Id
    timestamp: datetime


def recommended_to(
    warehouse: Warehouse, users: Sequence[Id], run_date: date | None = None
) -> list[Recommended]:
    """The recommendations of some users; those without any are left out.

    Args:
        warehouse: Where the table is.
        users: Their ids; text is read as a number where the ids are numbers.
        run_date: Of the recommendations; default the newest.

    Raises:
        InputError: there is no table yet, nothing of the run date, or an id has the wrong type.
    """
    table = _open(warehouse, RECOMMENDATIONS)
    published = published_dates(table)
    day = run_date or max(published)
    if day not in published:
        raise InputError(
            "no recommendations are published",
            f"run date {day}",
            expected=f"{max(published)}, the newest, or another that is kept",
        )
    ids = _ids_of(users, table)
    chosen = (ds.field(RUN_DATE) == day) & ds.field(USER_ID).isin(ids)
    found: dict[Id, list[dict[str, Any]]] = {}
    for row in read_rows(table, chosen=chosen).to_pylist():
        found.setdefault(row[USER_ID], []).append(row)
    return [_recommended(found[user]) for user in ids.to_pylist() if user in found]


def first_users(warehouse: Warehouse, run_date: date, count: int) -> list[Id]:
    """A few users who have recommendations of a run date.

    Raises:
        InputError: there is no table yet.
    """
    rows = dataset_of(_open(warehouse, RECOMMENDATIONS))
    some = rows.scanner([USER_ID], filter=ds.field(RUN_DATE) == run_date, batch_size=4096)
    with naming(warehouse.table(RECOMMENDATIONS)):
        return pc.unique(some.head(4096)[USER_ID])[:count].to_pylist()


def history_of(warehouse: Warehouse, user: Id, count: int) -> list[Event]:
    """The last events of a user, newest first.

    Raises:
        InputError: there is no table yet, or the id has the wrong type.
    """
    (events,) = histories_of(warehouse, [user], count)
    return events


def histories_of(
    warehouse: Warehouse, users: Sequence[Id], count: int, until: datetime | None = None
) -> list[list[Event]]:
    """The last events of each of some users, newest first.

    Args:
        warehouse: Where the table is.
        users: Their ids; text is read as a number where the ids are numbers.
        count: Events per user, at most.
        until: The first instant that does not count.

    Raises:
        InputError: there is no table yet, or an id has the wrong type.
    """
    table = _open(warehouse, INTERACTIONS)
    ids = _ids_of(users, table)
    chosen = ds.field(USER_ID).isin(ids)
    if until is not None:
        chosen &= ds.field(TIMESTAMP) < pa.scalar(until)
    events = read_rows(table, [USER_ID, ITEM_ID, TIMESTAMP], chosen)
    events = events.sort_by([(TIMESTAMP, "descending")])
    return [
        [
            Event(row[ITEM_ID], row[TIMESTAMP])
            for row in events.filter(pc.equal(events[USER_ID], user)).slice(0, count).to_pylist()
        ]
        for user in ids
    ]


def last_event_with(
    warehouse: Warehouse, user: Id, item: Id, until: datetime, event_types: Sequence[str] = ()
) -> tuple[datetime, str | None] | None:
    """The time and, where known, the type of a user's last event with an item; None without one.

    Args:
        warehouse: Where the table is.
        user: The id, as `as_id` has it.
        item: The id, as `as_id` has it.
        until: The first instant that does not count.
        event_types: Only events of one of these types; empty for all.

    Raises:
        InputError: there is no table yet.
    """
    table = _open(warehouse, INTERACTIONS)
    columns = [
        name for name in (TIMESTAMP, EVENT_TYPE) if name in dataset_of(table).schema.names
    ]  # version 0.1 knew no types
    chosen = (ds.field(USER_ID) == user) & (ds.field(ITEM_ID) == item)
    if event_types and EVENT_TYPE in columns:
        chosen &= ds.field(EVENT_TYPE).isin(list(event_types))
    events = read_rows(table, columns, chosen & (ds.field(TIMESTAMP) < pa.scalar(until)))
    if not len(events):
        return None
    (last,) = events.sort_by([(TIMESTAMP, "descending")]).slice(0, 1).to_pylist()
    return last[TIMESTAMP], last.get(EVENT_TYPE)


def _open(warehouse: Warehouse, name: str) -> "DeltaTable":
    uri = warehouse.table(name)
    table = open_table(uri)
    if table is None:
        raise InputError("no such table", uri, remedy="Run `fearec nightly` first.")
    return table


def _ids_of(users: Sequence[Id], table: "DeltaTable") -> pa.Array:
    columns = dataset_of(table).schema
    kind = columns.field(USER_ID).type
    return pa.array([as_id(user, kind, USER_ID) for user in users], kind)


def as_id(given: Id, kind: pa.DataType, column: str) -> Id:
    """An id of a user or an item as a table has it; text is read as a number where ids are numbers.

    Raises:
        InputError: it cannot be an id of this type.
    """
    number = pa.types.is_integer(kind)
    try:
        wanted: Id = int(given) if number else str(given)
        pa.scalar(wanted, kind)
    except (ValueError, OverflowError):  # no number, one that is too large, or broken text
        expected = f"a number ({kind})" if number else "text"
        raise InputError(f"no such {column[:-3]}", column, expected, repr(given)) from None
    return wanted


def _recommended(rows: list[dict[str, Any]]) -> Recommended:
    first = rows[0]
    entries = first.get("recommendations")  # in the list layout
    if entries is None:
        entries = sorted(rows, key=lambda row: row["rank"])
    because = tuple(entry.get(BECAUSE) for entry in entries)
    # Entries of the list layout have a source only where they may differ in it.
    return Recommended(
        first[USER_ID],
        first[RUN_DATE],
        first["model_version"],
        "popular" if first[SOURCE] == "popular" else "model",
        tuple((entry[ITEM_ID], entry[SCORE]) for entry in entries),
        tuple(entry.get(SOURCE) or first[SOURCE] for entry in entries),
        because if any(item is not None for item in because) else (),
    )
