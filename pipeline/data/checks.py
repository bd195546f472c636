"""Stage: the checks of the data, before a model is trained on it.

What is *new* is what is later than the newest event that the run before knew: logs may end hours
before the end of a run date, or a day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.config.guard_sections import CheckSettings
from pipeline.data.increment import Increment, read_increment
from pipeline.dates import run_end
from pipeline.errors import naming
from pipeline.evaluation.realised import Taken, realised_hits
from pipeline.limits import RUNS, Limits, number
from pipeline.logs.validation import AFTER_RUN_DATE
from pipeline.results import Check, Checked, Ingested, Prepared
from pipeline.schema import (
    ITEM_ID,
    ITEMS_FILE,
    LOG_FILES,
    LOG_FILES_SCHEMA,
    QUARANTINE,
    RUN_DATE,
    TIMESTAMP,
)
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scratch_database
from pipeline.warehouse.commits import place_of
from pipeline.warehouse.lists import lists_before
from pipeline.warehouse.runs import last_known, runs_before
from pipeline.warehouse.tables import dataset_of, open_table

_ENOUGH_USERS = 100  # for a hit rate that chance does not decide


def check_data(
    ingested: Ingested,
    prepared: Prepared,
    checks: CheckSettings,
    locations: RunLocations,
    time_zone: str,
    targets: tuple[str, ...],
) -> Checked:
    """Compare a run's data with the limits, and with what the last runs recorded.

    Args:
        ingested: What came in.
        prepared: What the model would be trained on.
        checks: The limits.
        locations: The tables, and the run date.
        time_zone: The IANA time zone of the run date.
        targets: Types of the events by which the realised hit rate goes; empty for all events.
    """
    earlier = runs_before(locations.warehouse, locations.run_date, RUNS)
    limits = Limits(checks, earlier, "checks")
    end = run_end(locations.run_date, time_zone)
    known = [row["last_event"] for row in earlier if row["last_event"]]
    increment = read_increment(prepared.folder, known[-1]) if known else None
    realised = _realised(ingested, prepared, earlier, locations, time_zone, targets)
    return Checked(
        (
            _quarantined(ingested, limits, locations),
            _freshness(prepared, limits, end),
            limits.not_below_usual(
                "users", prepared.n_users + prepared.left_out_users, "users with an event"
            ),
            limits.not_below_usual("items", _items(prepared), "items with an event"),
            *_of_increment(increment, limits),
            _realised_check(realised, earlier, limits),
        ),
        realised,
    )


def _quarantined(ingested: Ingested, limits: Limits, locations: RunLocations) -> Check:
    """The share of bad rows in the files that the run date read first, by whichever of its runs."""
    files = open_table(locations.warehouse.table(LOG_FILES))
    is_new = ds.field("read_on") == locations.run_date
    is_new &= ~pc.coalesce(ds.field("forgotten"), False)
    read = LOG_FILES_SCHEMA.empty_table()
    if files is not None:
        with naming(place_of(files)):
            entries = dataset_of(files).replace_schema(LOG_FILES_SCHEMA)
            read = entries.to_table(["source_file", "source_stamp", "n_rows"], filter=is_new)
    if rows := sum(read["n_rows"].to_pylist()):
        by_reason = _bad_rows(read, locations)
    else:  # nothing, or by a version whose `log_files` had no such columns
        rows = ingested.rows - ingested.filtered
        by_reason = dict(ingested.quarantined_by_reason)
        by_reason.pop(AFTER_RUN_DATE, None)
    share = sum(by_reason.values()) / max(1, rows)
    named = ", ".join(f"{count:,} {reason}" for reason, count in by_reason.items())
    what = f"share of the {rows:,} rows read that are bad"
    return limits.at_most("quarantined", share, f"{what} ({named})" if named else what)


def _bad_rows(files: pa.Table, locations: RunLocations) -> dict[str, int]:
    """How many rows of files are in quarantine for which reason.

    Rows that were bad before a file grew are not among them unless this run date found them, nor
    are those that only wait for a later run date, as of a first load. A wrong unit of time leads
    beyond the year 9998.
    """
    quarantine = open_table(locations.warehouse.table(QUARANTINE))
    if quarantine is None:
        return {}
    waits = (ds.field("reason") == AFTER_RUN_DATE) & (ds.field(TIMESTAMP) < "9999")
    of_files = ds.field("source_file").isin(files["source_file"].combine_chunks())
    columns = ["source_file", "source_stamp", "reason", RUN_DATE]
    bad = dataset_of(quarantine).scanner(columns, filter=of_files & ~waits)
    with (
        naming(place_of(quarantine)),
        scratch_folder(locations) as folder,
        scratch_database(folder, locations.resources) as db,
    ):
        db.register("bad", bad.to_reader())
        db.register("files", files)
        counts = db.execute(
            f"""SELECT reason, count(*) FROM bad JOIN files USING (source_file)
            WHERE bad.source_stamp = files.source_stamp OR {RUN_DATE} = DATE '{locations.run_date}'
            GROUP BY reason ORDER BY reason"""
        )
        return dict(counts.fetchall())


def _freshness(prepared: Prepared, limits: Limits, end: datetime) -> Check:
    age = (end - prepared.last_event) / timedelta(days=1)
    what = "days from the newest event to the end of the run date"
    check = limits.not_above_usual("freshness", age, what, enough=1)
    if limits.values("freshness"):
        return check
    # Old logs are usual for a trial, and a first run that is held publishes nothing at all.
    first = limits.at_most("freshness", age, what)
    return replace(first, outcome="warned") if first.outcome == "held" else first


def _items(prepared: Prepared) -> int:
    popularity = pq.read_table(prepared.folder / ITEMS_FILE, columns=["popularity"])["popularity"]
    return int(np.count_nonzero(popularity.to_numpy())) + prepared.left_out_items


def _of_increment(increment: Increment | None, limits: Limits) -> tuple[Check, ...]:
    """The checks of what is new; in a first run nothing is."""
    return (
        limits.not_below_usual("new_events", increment.n_new if increment else None, "new events"),
        limits.not_above_usual(
            "new_items",
            increment.new_items if increment else None,
            "share of the items that are new",
        ),
        limits.not_above_usual(
            "unknown_items",
            increment.unknown_items if increment else None,
            "share of the new events that are on new items",
        ),
        limits.not_above_usual(
            "popularity_drift",
            increment.popularity_drift if increment else None,
            "PSI of the new events' items against those before",
        ),
        limits.not_above_usual(
            "length_drift",
            increment.length_drift if increment else None,
            "PSI of the histories' lengths against those before",
        ),
    )


def _realised(
    ingested: Ingested,
    prepared: Prepared,
    earlier: Sequence[Mapping[str, Any]],
    locations: RunLocations,
    time_zone: str,
    targets: tuple[str, ...],
) -> Mapping[str, float]:
    """The realised hit rate of the newest lists before the run date; empty where there are none."""
    lists = lists_before(locations.warehouse, locations.run_date)
    if lists is None:
        return {}
    since = last_known(earlier, lists.run_date, time_zone)
    if since >= prepared.last_event:
        return {}
    until = run_end(locations.run_date, time_zone)
    taken = Taken(ingested.interactions_version, since, until, targets)
    before = read_increment(prepared.folder, since).before
    popular = np.argsort(-before, kind="stable")[: np.count_nonzero(before)]
    items = pq.read_table(prepared.folder / ITEMS_FILE, columns=[ITEM_ID])[ITEM_ID]
    return realised_hits(lists, taken, items.take(pa.array(popular - 1)), locations)


def _realised_check(
    realised: Mapping[str, float], earlier: Sequence[Mapping[str, Any]], limits: Limits
) -> Check:
    n_users = realised.get("n_users", 0)
    hit_rate = realised["HR"] if n_users >= _ENOUGH_USERS else None
    last = [dict(row["realised"]) for row in earlier if row["realised"]]
    before = f", {number(last[-1]['HR'])} the time before" if last else ""
    popular = f", {number(realised['popularity_HR'])} by popularity" if realised else ""
    what = f"share of {n_users:,.0f} users who took something of their last list"
    check = limits.not_below_usual("realised", hit_rate, what)
    return replace(check, message=f"{check.message}{popular}{before}")
