"""The checks of the data: nights that are held, nights that warn, and nights that are neither."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.config.guard_sections import CheckSettings
from pipeline.config.settings import Settings
from pipeline.data.checks import check_data
from pipeline.data.source_files import SourceFiles
from pipeline.results import Checked, Ingested, Prepared
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.run_log import record_run
from pipeline.schema import LOG_FILES
from pipeline.warehouse.runs import current_run
from tests.helpers.ingest_cases import settings_in, write_log
from tests.helpers.scored_parts import ListOf, write_parts
from tests.helpers.stages import ingest, locations, prepare, publish

FIRST = date(2026, 6, 1)  # a Monday
USERS, ITEMS, EVENTS = 1500, 60, 1200  # per day, those of the first day aside
Rows = list[tuple[Any, Any, datetime]]


def noon(day: date, seconds: int = 0) -> datetime:
    return datetime.combine(day, time(12), UTC) + timedelta(seconds=seconds)


def events(day: date, n_events: int = EVENTS, first_item: int = 0) -> Rows:
    """Users with events on that day; low items are popular, and as popular every day."""
    rng = np.random.default_rng(day.toordinal())
    users = rng.permutation(USERS)[:n_events]
    items = first_item + np.minimum(rng.geometric(0.1, n_events) - 1, ITEMS - 1)
    return [
        (int(user), f"item{item}", noon(day, second))
        for second, (user, item) in enumerate(zip(users, items, strict=True))
    ]


def first_load(day: date = FIRST) -> Rows:
    """Every user has some events on the days before."""
    return [row for back in range(8) for row in events(day - timedelta(days=back), USERS)]


def night(settings: Settings, day: date, rows: Rows | None = None, **checks: Any) -> Checked:
    """The stages up to the checks, recorded as a run; the log is that of the day before."""
    if rows is not None:
        write_log(settings, f"{day}.parquet", rows)
    ingested = ingest(settings, day)
    prepared = prepare(settings, day, ingested)
    checked = check(settings, day, ingested, prepared, **checks)
    results = {"ingest": ingested, "prepare": prepared, "check": checked}
    records = (StageRecord(name, "", "", 0.0, result) for name, result in results.items())
    record_run(locations(settings, day), datetime.now(UTC), RunResults(*records))
    return checked


def check(
    settings: Settings, day: date, ingested: Ingested, prepared: Prepared, **checks: Any
) -> Checked:
    given = locations(settings, day)
    limits, targets = CheckSettings(**checks), settings.event_types.targets
    return check_data(ingested, prepared, limits, given, settings.time_zone, targets)


def outcomes(checked: Checked) -> dict[str, str]:
    return {each.name: each.outcome for each in checked.checks if each.outcome != "passed"}


def value(checked: Checked, name: str) -> float | None:
    return {each.name: each.value for each in checked.checks}[name]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A first load, and good nights from Monday to Saturday, whose logs end the day before."""
    settings = settings_in(tmp_path_factory.mktemp("past"))
    assert outcomes(night(settings, FIRST, first_load(FIRST - timedelta(days=1)))) == {}
    for day in range(1, 6):
        today = FIRST + timedelta(days=day)
        assert outcomes(night(settings, today, events(today - timedelta(days=1)))) == {}
    return settings


SUNDAY = FIRST + timedelta(days=6)


@pytest.fixture
def settings(past: Settings, tmp_path: Path) -> Settings:
    """The same, to go on with."""
    shutil.copytree(Path(past.warehouse).parent, tmp_path, dirs_exist_ok=True)
    return settings_in(tmp_path)


@pytest.mark.parametrize("n_events", [EVENTS, EVENTS // 4])
def test_a_good_night_and_a_quiet_sunday_pass(settings: Settings, n_events: int) -> None:
    checked = night(settings, SUNDAY, events(SUNDAY - timedelta(days=1), n_events))
    assert outcomes(checked) == {}
    assert value(checked, "new_events") == n_events
    assert value(checked, "freshness") == pytest.approx(1.5, abs=0.02)


def test_filtered_rows_are_no_part_of_the_share_that_is_bad(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, keep="user_id < 2")
    when = datetime(2026, 6, 9, 12, tzinfo=UTC)
    users = [0, 1, 1, *range(2, 18)]
    rows = [(user, "x" if at else None, when) for at, user in enumerate(users)]
    checked = night(settings, date(2026, 6, 9), rows)
    assert value(checked, "quarantined") == pytest.approx(1 / 3)


def test_a_log_of_which_most_is_null_holds_the_run_and_says_why(settings: Settings) -> None:
    rows = events(SUNDAY - timedelta(days=1))
    broken = [(user, None if at % 10 else item, when) for at, (user, item, when) in enumerate(rows)]
    checked = night(settings, SUNDAY, broken)
    assert outcomes(checked)["quarantined"] == "held"
    (reason,) = checked.held_by
    assert reason == (
        "share of the 1,200 rows read that are bad (1,080 null item_id): 0.9 (at most 0.2)"
    )


@pytest.mark.parametrize("then", ["late file", "file is gone", "file is touched", "read again"])
def test_bad_rows_hold_the_run_whatever_it_reads_later(settings: Settings, then: str) -> None:
    rows = events(SUNDAY - timedelta(days=1))
    assert outcomes(night(settings, SUNDAY, [(user, None, when) for user, _, when in rows]))
    if then == "late file":
        write_log(settings, "late.parquet", rows[:3])
    elif then == "file is gone":
        (Path(settings.logs.path) / f"{FIRST}.parquet").unlink()
    elif then == "file is touched":
        os.utime(Path(settings.logs.path) / f"{SUNDAY}.parquet", (1, 1))
    else:
        ingest(settings, SUNDAY, force=True)
    (reason,) = night(settings, SUNDAY).held_by
    n_rows = "1,203" if then == "late file" else "1,200"
    assert reason.startswith(f"share of the {n_rows} rows read that are bad (1,200 null item_id)")
    assert outcomes(night(settings, SUNDAY, rows)) == {}


def test_old_bad_rows_of_a_file_that_grew_do_not_hold_the_run(settings: Settings) -> None:
    rows = events(SUNDAY - timedelta(days=1))
    bad = [(user, None, when) for user, _, when in rows[:400]]
    path = write_log(settings, "grows.parquet", bad + rows[400:])
    assert "quarantined" in outcomes(night(settings, SUNDAY))
    later = events(SUNDAY)
    assert path == write_log(settings, "grows.parquet", bad + rows[400:] + later)
    assert "quarantined" not in outcomes(night(settings, SUNDAY + timedelta(days=1)))


def test_where_the_table_of_files_has_no_counts_those_of_the_ingest_hold(
    settings: Settings,
) -> None:
    rows = events(SUNDAY - timedelta(days=1))
    write_log(settings, "bad.parquet", [(user, None, when) for user, _, when in rows])
    ingested = ingest(settings, SUNDAY)
    files = DeltaTable(str(Path(settings.warehouse) / LOG_FILES))
    before = files.to_pyarrow_table().drop(["n_rows", "read_on"])
    write_deltalake(files, before, mode="overwrite", schema_mode="overwrite")
    prepared = prepare(settings, SUNDAY, ingested)
    (reason,) = check(settings, SUNDAY, ingested, prepared).held_by
    assert reason.startswith("share of the 1,200 rows read that are bad (1,200 null item_id)")


def test_bad_rows_of_a_killed_ingest_count_when_the_next_day_reads_the_file(
    settings: Settings,
) -> None:
    rows = [(user, None, when) for user, _, when in events(SUNDAY - timedelta(days=1))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SourceFiles, "write_entries", _killed)
        with pytest.raises(KeyboardInterrupt):
            night(settings, SUNDAY, rows)
    (reason,) = night(settings, SUNDAY + timedelta(days=1)).held_by[:1]
    assert reason.startswith("share of the 1,200 rows read that are bad (1,200 null item_id)")


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_log_in_another_unit_of_time_holds_the_run(settings: Settings) -> None:
    rows = [
        (user, item, int(when.timestamp()) * 1000)
        for user, item, when in events(SUNDAY - timedelta(days=1))
    ]
    write_log(settings, "wrong.parquet", rows, time=pa.int64())
    assert outcomes(night(settings, SUNDAY))["quarantined"] == "held"


def test_an_empty_day_warns_and_days_without_any_hold_the_run(settings: Settings) -> None:
    for day in range(3):
        checked = night(settings, SUNDAY + timedelta(days=day), [])
        assert outcomes(checked) == {"new_events": "warned"}  # shops are closed at times
    checked = night(settings, SUNDAY + timedelta(days=3), [])
    assert outcomes(checked) == {"new_events": "warned", "freshness": "held"}


@pytest.mark.parametrize("n_before", [1, 6])
def test_logs_that_ended_five_months_ago_hold_the_run(
    n_before: int, settings: Settings, tmp_path: Path
) -> None:
    if n_before == 1:
        settings = settings_in(tmp_path / "one")
        night(settings, FIRST, first_load(FIRST - timedelta(days=1)))
    checked = night(settings, SUNDAY + timedelta(days=150))
    assert outcomes(checked)["freshness"] == "held"
    assert "(usual 1.4" in checked.held_by[0]


def test_old_logs_only_warn_in_a_first_run_and_not_in_the_next(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    later = FIRST + timedelta(days=150)
    assert outcomes(night(settings, later, first_load())) == {"freshness": "warned"}
    assert outcomes(night(settings, later + timedelta(days=1))) == {}


def test_a_first_load_of_days_to_come_passes_and_so_do_they(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    rows = first_load()
    for day in range(1, 5):
        rows += events(FIRST + timedelta(days=day))
    for day in range(5):  # as a backfill runs them
        checked = night(settings, FIRST + timedelta(days=day), rows if day == 0 else None)
        assert outcomes(checked) == {}
        assert value(checked, "quarantined") == 0
        assert value(checked, "new_events") == (EVENTS if day else None)


def test_other_ids_for_all_items_hold_the_run(settings: Settings) -> None:
    checked = night(settings, SUNDAY, events(SUNDAY - timedelta(days=1), first_item=1000))
    found = outcomes(checked)
    assert found == {"new_items": "warned", "unknown_items": "held"}
    assert value(checked, "unknown_items") == 1.0
    assert value(checked, "new_items") == pytest.approx(0.5, abs=0.1)
    monday = night(settings, SUNDAY + timedelta(days=1), events(SUNDAY, first_item=1000))
    assert "unknown_items" not in outcomes(monday)  # they are known then


def test_shuffled_items_are_a_drift_of_popularity(settings: Settings) -> None:
    shuffled = np.random.default_rng(0).permutation(ITEMS)
    rows = [
        (user, f"item{shuffled[int(item.removeprefix('item'))]}", when)
        for user, item, when in events(SUNDAY - timedelta(days=1))
    ]
    assert outcomes(night(settings, SUNDAY, rows)) == {"popularity_drift": "warned"}


def test_users_of_another_kind_are_a_drift_of_lengths(settings: Settings) -> None:
    rows = [
        (10_000 + user, item, when)
        for user, item, when in events(SUNDAY - timedelta(days=1)) + events(SUNDAY)
    ]
    assert outcomes(night(settings, SUNDAY, rows)) == {"length_drift": "warned"}


def test_users_who_are_gone_hold_the_run(settings: Settings) -> None:
    ingested = ingest(settings, SUNDAY)
    prepared = prepare(settings, SUNDAY, ingested)
    half = replace(prepared, n_users=USERS // 3)
    assert outcomes(check(settings, SUNDAY, ingested, half))["users"] == "held"
    filtered = replace(half, left_out_users=USERS - USERS // 3)  # k-core is no loss
    assert "users" not in outcomes(check(settings, SUNDAY, ingested, filtered))


@pytest.mark.parametrize(("action", "expected"), [("warn", "warned"), ("off", None)])
def test_every_check_can_be_a_warning_or_off(
    action: str, expected: str | None, settings: Settings
) -> None:
    rows = events(SUNDAY - timedelta(days=1), first_item=1000)
    checked = night(settings, SUNDAY, rows, unknown_items={"action": action})
    assert outcomes(checked).get("unknown_items") == expected
    assert checked.held_by == ()
    assert value(checked, "unknown_items") == 1.0  # recorded all the same


def test_what_is_found_is_in_the_row_of_the_run(settings: Settings) -> None:
    checked = night(settings, SUNDAY, events(SUNDAY - timedelta(days=1)))
    row = current_run(locations(settings, SUNDAY).warehouse, SUNDAY)
    assert row is not None
    assert {each["name"]: each["value"] for each in row["checks"]} == {
        each.name: each.value for each in checked.checks
    }
    assert row["last_event"] == noon(SUNDAY - timedelta(days=1), EVENTS - 1)


def test_last_lists_are_measured_by_what_their_users_then_took(settings: Settings) -> None:
    day = SUNDAY - timedelta(days=1)
    new = events(SUNDAY - timedelta(days=1))
    taken = {user: item for user, item, _ in new}
    lists = [
        ListOf(
            user, [taken.get(user, "item0") if user % 4 == 0 else "item59", "itemX"], [2, 1], [1, 2]
        )
        for user in range(USERS)
    ]
    parts = write_parts(Path(settings.work_dir) / "parts", lists, "long", 500, day=day)
    publish(settings, day, parts)
    checked = night(settings, SUNDAY, new)  # of the day on which they were published
    held = [user for user, item in taken.items() if item == "item59" or user % 4 == 0]
    popular = [item for item in taken.values() if item in ("item0", "item1")]
    assert checked.realised == pytest.approx(
        {
            "HR": len(held) / EVENTS,
            "event_HR": len(held) / EVENTS,
            "popularity_HR": len(popular) / EVENTS,
            "popularity_event_HR": len(popular) / EVENTS,
            "n_users": EVENTS,
            "n_events": EVENTS,
        }
    )
    assert value(checked, "realised") == checked.realised["HR"]
    row = current_run(locations(settings, SUNDAY).warehouse, SUNDAY)
    assert row is not None
    assert dict(row["realised"]) == checked.realised
    again = night(settings, SUNDAY + timedelta(days=1), events(SUNDAY))  # the lists are those
    message = next(each.message for each in again.checks if each.name == "realised")
    assert f"{len(held) / EVENTS:.3g} the time before" in message
    assert again.realised["n_events"] == 2 * EVENTS
