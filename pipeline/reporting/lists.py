"""How the model's lists of two run dates compare: their scores, and which items they hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import pyarrow.dataset as ds

from pipeline.errors import naming
from pipeline.schema import ITEM_ID, RECOMMENDATIONS, RUN_DATE, SCORE, USER_ID
from pipeline.storage.locations import Warehouse
from pipeline.storage.resources import ResourceSettings
from pipeline.storage.scratch_db import temporary_database
from pipeline.warehouse.lists import published_dates
from pipeline.warehouse.lookup import Id
from pipeline.warehouse.tables import dataset_of, open_table

_BINS = 40
_POINTS = 50  # of the curve of exposure
_TOP = 5


@dataclass(frozen=True)
class ListSummary:
    """The model's lists of one run date.

    Attributes:
        run_date: Of the lists.
        n_users: Users who have one.
        n_items: Items that are in any.
        scores: Scores at equal distances, and the share of the entries from each to the next.
        exposure: Shares of the listed items, most listed first, and their share of all entries.
        top: The items in most lists, and the share of the users who have them.
    """

    run_date: date
    n_users: int
    n_items: int
    scores: Sequence[tuple[float, float]]
    exposure: Sequence[tuple[float, float]]
    top: Sequence[tuple[Id, float]]


def newest_dates(warehouse: Warehouse, run_date: date, count: int) -> list[date]:
    """The newest published run dates, newest first, of those up to one."""
    table = open_table(warehouse.table(RECOMMENDATIONS))
    published = published_dates(table) if table else []
    return sorted((day for day in published if day <= run_date), reverse=True)[:count]


def list_summaries(
    warehouse: Warehouse, days: Sequence[date], resources: ResourceSettings
) -> list[ListSummary]:
    """The lists of some run dates; those that have none by a model are left out."""
    table = open_table(warehouse.table(RECOMMENDATIONS))
    if table is None:
        return []
    rows = dataset_of(table)
    with naming(warehouse.table(RECOMMENDATIONS)):
        found = [_summary(rows, day, resources) for day in days]
    return [summary for summary in found if summary]


def _summary(rows: ds.Dataset, day: date, resources: ResourceSettings) -> ListSummary | None:
    with temporary_database(resources) as db:
        _read_lists(db, rows, day)
        n_users, n_entries, low, high = db.execute(
            f"SELECT count(DISTINCT {USER_ID}), count(*), min({SCORE}), max({SCORE}) FROM lists"
        ).fetchall()[0]
        if not n_entries:
            return None
        width = max(high - low, 1e-9) / _BINS
        bins = db.execute(
            f"SELECT least(floor(({SCORE} - ?) / ?), ?)::INT AS bin, count(*) / ? FROM lists "
            "GROUP BY bin",
            [low, width, _BINS - 1, n_entries],
        ).fetchall()
        db.execute(f"CREATE TABLE items AS SELECT {ITEM_ID}, count(*) AS n FROM lists GROUP BY ALL")
        counts = db.execute("SELECT n FROM items ORDER BY n DESC").fetchnumpy()["n"]
        top = db.execute(
            f"SELECT {ITEM_ID}, n / ? FROM items ORDER BY n DESC, {ITEM_ID} LIMIT {_TOP}", [n_users]
        ).fetchall()
    places = np.unique(np.linspace(1, len(counts), min(_POINTS, len(counts))).astype(int))
    held = np.cumsum(counts)[places - 1] / counts.sum()
    return ListSummary(
        day,
        n_users,
        len(counts),
        [(low + number * width, dict(bins).get(number, 0.0)) for number in range(_BINS)],
        list(zip((places / len(counts)).tolist(), held.tolist(), strict=True)),
        top,
    )


def _read_lists(db: duckdb.DuckDBPyConnection, rows: ds.Dataset, day: date) -> None:
    """Make the table `lists`, a row per user and item, of the users whom a model served."""
    long = "rank" in rows.schema.names
    columns = [USER_ID, "source", *([ITEM_ID, SCORE] if long else ["recommendations"])]
    entry = f"{ITEM_ID}, {SCORE}" if long else "unnest(recommendations, recursive := true)"
    scanner = rows.scanner(columns, filter=ds.field(RUN_DATE) == day)
    db.register("rows", scanner.to_reader())
    db.execute(
        f"CREATE TABLE lists AS SELECT {USER_ID}, {entry} FROM rows WHERE source <> 'popular'"
    )
