"""Looking at the tables: what a user did, and what is recommended to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.config.settings import Settings
from pipeline.data.ingest_sql import INTERACTIONS
from pipeline.errors import InputError
from pipeline.publishing.publish import RECOMMENDATIONS
from pipeline.schema import ITEM_ID, RUN_DATE, SCORE, TIMESTAMP, USER_ID
from pipeline.warehouse.tables import dataset_of, open_table, table_uri

Id = int | str


@dataclass(frozen=True)
class Recommended:
    """One user's recommendations of one run date, best first."""

    user_id: Id
    run_date: date
    model_version: str
    source: str
    items: tuple[tuple[Id, float], ...]  # item id and score


@dataclass(frozen=True)
class Event:
    """One interaction."""

    item_id: Id
    timestamp: datetime


def recommended_to(
    settings: Settings, users: Sequence[Id], run_date: date | None = None
) -> list[Recommended]:
    """The recommendations of some users; those without any are left out.

    Args:
        settings: Where the table is.
        users: Their ids; text is read as a number where the ids are numbers.
        run_date: Of which night; default the newest.

    Raises:
        InputError: there is no table yet, or an id has the wrong type.
    """
    rows = _open(settings, RECOMMENDATIONS)
    day = run_date or max(_run_dates(settings))
    ids = pa.array([_as_id(user, rows.schema) for user in users], rows.schema.field(USER_ID).type)
    chosen = (ds.field(RUN_DATE) == day) & ds.field(USER_ID).isin(ids)
    found: dict[Id, list[dict[str, Any]]] = {}
    for row in rows.to_table(filter=chosen).to_pylist():
        found.setdefault(row[USER_ID], []).append(row)
    return [_recommended(found[user]) for user in ids.to_pylist() if user in found]


def first_users(settings: Settings, run_date: date, count: int) -> list[Id]:
    """A few users who have recommendations of a run date.

    Raises:
        InputError: there is no table yet.
    """
    rows = _open(settings, RECOMMENDATIONS)
    some = rows.scanner([USER_ID], filter=ds.field(RUN_DATE) == run_date, batch_size=4096)
    return pc.unique(some.head(4096)[USER_ID])[:count].to_pylist()


def history_of(settings: Settings, user: Id, count: int) -> list[Event]:
    """The last events of a user, newest first.

    Raises:
        InputError: there is no table yet, or the id has the wrong type.
    """
    rows = _open(settings, INTERACTIONS)
    mine = ds.field(USER_ID) == pa.scalar(
        _as_id(user, rows.schema), rows.schema.field(USER_ID).type
    )
    events = rows.to_table([ITEM_ID, TIMESTAMP], filter=mine)
    newest = events.sort_by([(TIMESTAMP, "descending")]).slice(0, count)
    return [Event(row[ITEM_ID], row[TIMESTAMP]) for row in newest.to_pylist()]


def _open(settings: Settings, name: str) -> ds.Dataset:
    table = open_table(settings, name)
    if table is None:
        raise InputError(
            "no such table", table_uri(settings, name), remedy="Run `fearec nightly` first."
        )
    return dataset_of(table)


def _run_dates(settings: Settings) -> list[date]:
    table = open_table(settings, RECOMMENDATIONS)
    assert table is not None
    return [date.fromisoformat(partition[RUN_DATE]) for partition in table.partitions()]


def _as_id(user: Id, columns: pa.Schema) -> Id:
    kind = columns.field(USER_ID).type
    number = pa.types.is_integer(kind)
    try:
        wanted: Id = int(user) if number else str(user)
        pa.scalar(wanted, kind)
    except (ValueError, OverflowError):  # no number, one that is too large, or broken text
        expected = f"a number ({kind})" if number else "text"
        raise InputError("no such user", USER_ID, expected, repr(user)) from None
    return wanted


def _recommended(rows: list[dict[str, Any]]) -> Recommended:
    first = rows[0]
    entries = first.get("recommendations")  # in the list layout
    if entries is None:
        entries = sorted(rows, key=lambda row: row["rank"])
    return Recommended(
        first[USER_ID],
        first[RUN_DATE],
        first["model_version"],
        first["source"],
        tuple((entry[ITEM_ID], entry[SCORE]) for entry in entries),
    )
