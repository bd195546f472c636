"""How the model's lists of two run dates compare: their scores, and which items they hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import pyarrow.dataset as ds

from pipeline.schema import ITEM_ID, RECOMMENDATIONS, RUN_DATE, SCORE, USER_ID
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.lists import published_dates
from pipeline.warehouse.tables import dataset_of, open_table

_BINS = 40
_POINTS = 50  # of the curve of exposure


@dataclass(frozen=True)
class ListSummary:
    """The lists of one run date.

    Attributes:
        run_date: Of the lists.
        n_users: Users who have one.
        n_items: Items that are in any.
        scores: Scores at equal distances, and the share of the entries from each to the next.
        exposure: Shares of the listed items, most listed first, and their share of all entries.
    """

    run_date: date
    n_users: int
    n_items: int
    scores: Sequence[tuple[float, float]]
    exposure: Sequence[tuple[float, float]]


def list_summaries(warehouse: Warehouse, run_date: date) -> list[ListSummary]:
    """The lists of a run date and, after it, of the published run date before."""
    table = open_table(warehouse.table(RECOMMENDATIONS))
    if table is None:
        return []
    days = [day for day in sorted(published_dates(table), reverse=True) if day <= run_date][:2]
    if run_date not in days:
        return []
    rows = dataset_of(table)
    found = [_summary(rows, day) for day in days]
    return [summary for summary in found if summary]


def _summary(rows: ds.Dataset, day: date) -> ListSummary | None:
    mine = (ds.field(RUN_DATE) == day) & (ds.field("source") == "model")
    long = "rank" in rows.schema.names
    columns = [USER_ID, ITEM_ID, SCORE] if long else [USER_ID, "recommendations"]
    entries = rows.scanner(columns, filter=mine).to_reader()
    entry = f"{ITEM_ID}, {SCORE}" if long else "unnest(recommendations, recursive := true)"
    with duckdb.connect() as connection:
        connection.register("entries", entries)
        connection.execute(f"CREATE TEMP TABLE lists AS SELECT {USER_ID}, {entry} FROM entries")
        counts, low, high, users = connection.execute(
            f"SELECT count(*), min({SCORE}), max({SCORE}), count(DISTINCT {USER_ID}) FROM lists"
        ).fetchall()[0]
        if not counts:
            return None
        width = max(high - low, 1e-9) / _BINS
        scores = connection.execute(
            f"SELECT least(floor(({SCORE} - ?) / ?), ?)::INT AS bin, count(*) / ? FROM lists "
            "GROUP BY bin ORDER BY bin",
            [low, width, _BINS - 1, counts],
        ).fetchall()
        items = connection.execute(
            f"SELECT count(*) AS n FROM lists GROUP BY {ITEM_ID} ORDER BY n DESC"
        ).fetchnumpy()["n"]
    places = np.unique(np.linspace(1, len(items), min(_POINTS, len(items))).astype(int))
    held = np.cumsum(items)[places - 1] / items.sum()
    return ListSummary(
        day,
        users,
        len(items),
        [(low + number * width, share) for number, share in scores],
        list(zip((places / len(items)).tolist(), held.tolist(), strict=True)),
    )
