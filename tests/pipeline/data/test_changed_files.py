"""Files that change, move or repeat one another; and tables that lost a commit."""

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import deltalake
import pytest
from deltalake import DeltaTable
from hypothesis import strategies as st

from pipeline.config.settings import Settings
from pipeline.data import ingest_batches
from pipeline.results.data_results import Ingested
from pipeline.warehouse.tables import open_table
from tests.helpers.examples import few_and_many
from tests.helpers.ingest_cases import (
    NOON,
    TODAY,
    events_of,
    rows_of,
    settings_in,
    versions,
    write_log,
)
from tests.helpers.stages import forget, ingest, table_uri

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
GOLDEN = Path(__file__).parents[2] / "golden" / "version_0_1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def test_a_corrected_file_replaces_its_rows(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "wrong", NOON), (None, "bad", NOON)])
    write_log(settings, "it's.parquet", [(2, "x", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "right", NOON), (1, None, NOON)])
    write_log(settings, "new.parquet", [(3, "x", NOON)])
    result = ingest(settings, TODAY)
    assert (result.added, result.withdrawn, result.quarantined) == (2, 1, 1)
    assert events_of(settings) == [
        (1, "right", NOON),
        (1, "x", NOON),
        (2, "x", NOON),
        (3, "x", NOON),
    ]
    assert [row["reason"] for row in rows_of(settings, "quarantine")] == ["null item_id"]
    before = versions(settings)
    assert ingest(settings, TODAY).files == 0
    assert versions(settings) == before


def test_a_file_that_becomes_bad_or_empty_takes_its_rows_with_it(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (2, "x", NOON)])
    write_log(settings, "b.parquet", [(3, "x", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "a.parquet", [])
    assert ingest(settings, TODAY).withdrawn == 2
    assert events_of(settings) == [(3, "x", NOON)]


def test_a_file_that_grew_rewrites_no_table(settings: Settings):
    rows = [(user, "x", NOON) for user in range(5)]
    write_log(settings, "a.parquet", rows)
    ingest(settings, TODAY)
    there = set(open_table(table_uri(settings, "interactions")).file_uris())
    write_log(settings, "a.parquet", [*rows, (9, "x", NOON)])
    result = ingest(settings, TODAY)
    assert (result.added, result.duplicates, result.withdrawn) == (1, 5, 0)
    assert there < set(open_table(table_uri(settings, "interactions")).file_uris())


def test_rows_in_another_order_are_those_of_the_file(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "y", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "a.parquet", [(1, "y", NOON), (1, "x", NOON), (1, "z", NOON)])
    result = ingest(settings, TODAY)
    assert (result.added, result.withdrawn) == (1, 0)
    rows = {row["item_id"]: row["source_row"] for row in rows_of(settings, "interactions")}
    assert rows == {"y": 0, "x": 1, "z": 2}


def test_a_withdrawn_event_that_another_file_has_stays(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "y", NOON)])
    write_log(settings, "b.parquet", [(1, "x", NOON), (2, "z", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "a.parquet", [(1, "y", NOON), (1, "w", NOON)])
    result = ingest(settings, TODAY)
    assert (result.files, result.added, result.withdrawn) == (1, 1, 0)
    assert [event[1] for event in events_of(settings)] == ["w", "x", "y", "z"]
    sources = {row["item_id"]: row["source_file"] for row in rows_of(settings, "interactions")}
    assert sources["x"] == "b.parquet"
    write_log(settings, "b.parquet", [(2, "z", NOON), (2, "v", NOON)])
    assert ingest(settings, TODAY).withdrawn == 1
    assert [event[1] for event in events_of(settings)] == ["w", "y", "v", "z"]


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_it_stays_where_an_earlier_run_date_reads_the_correction(
    settings: Settings, is_forgotten: bool
):
    write_log(settings, "a.parquet", [(1, "x", NOON - 5 * DAY), (7, "late", NOON)])
    write_log(settings, "b.parquet", [(2, "y", NOON - 5 * DAY), (7, "late", NOON)])
    ingest(settings, TODAY)
    if is_forgotten:
        forget(settings, TODAY - 3 * DAY, "a.parquet")
    else:
        write_log(settings, "a.parquet", [(1, "x", NOON - 5 * DAY)])
        assert ingest(settings, TODAY - 3 * DAY).withdrawn == 0
    assert (7, "late", NOON) in events_of(settings)
    assert rows_of(settings, "quarantine") == []
    assert ingest(settings, TODAY).files == 0


def test_a_file_that_an_earlier_run_date_reads_again_keeps_its_rows(settings: Settings):
    rows = [(1, "x", NOON), (1, "late", NOON + DAY)]
    write_log(settings, "a.parquet", rows)
    ingest(settings, TODAY + DAY)
    write_log(settings, "a.parquet", [*rows, (1, "z", NOON), (2, "later", NOON + DAY)])
    result = ingest(settings, TODAY)
    assert (result.added, result.duplicates, result.quarantined) == (1, 2, 1)
    assert [event[1] for event in events_of(settings)] == ["late", "x", "z"]
    assert [row["item_id"] for row in rows_of(settings, "quarantine")] == ["later"]


def test_a_forced_ingest_replaces_the_rows_of_a_file_that_looks_the_same(settings: Settings):
    path = write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON)])
    times, size = path.stat().st_mtime_ns, path.stat().st_size
    ingest(settings, TODAY)
    write_log(settings, "a.parquet", [(2, "y", NOON), (None, "y", NOON)])
    os.utime(path, ns=(times, times))
    assert path.stat().st_size == size
    assert ingest(settings, TODAY).files == 0
    result = ingest(settings, TODAY, force=True)
    assert (result.added, result.withdrawn) == (1, 1)
    assert events_of(settings) == [(2, "y", NOON)]
    assert [row["item_id"] for row in rows_of(settings, "quarantine")] == ["y"]


def test_a_file_put_back_as_it_was_is_read_again(settings: Settings):
    path = write_log(settings, "a.parquet", [(1, "x", NOON)])
    first, times = path.read_bytes(), path.stat().st_mtime_ns
    ingest(settings, TODAY)
    write_log(settings, "a.parquet", [(1, "y", NOON)])
    ingest(settings, TODAY)
    path.write_bytes(first)
    os.utime(path, ns=(times, times))
    ingest(settings, TODAY)
    assert events_of(settings) == [(1, "x", NOON)]


def test_the_same_name_size_and_time_in_another_folder_is_another_file(tmp_path: Path):
    here, there = settings_in(tmp_path), settings_in(tmp_path, path=str(tmp_path / "other"))
    paths = [write_log(here, "a.parquet", [(1, "x", NOON)])]
    paths.append(write_log(there, "a.parquet", [(2, "x", NOON)]))
    for path in paths:
        os.utime(path, ns=(10**18, 10**18))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    ingest(here, TODAY)
    result = ingest(there, TODAY)
    assert (result.files, result.added, result.withdrawn) == (1, 1, 0)
    assert events_of(here) == [(1, "x", NOON), (2, "x", NOON)]
    before = versions(here)
    assert [ingest(each, TODAY).files for each in (here, there)] == [0, 0]
    assert versions(here) == before


def test_a_moved_file_is_known_and_its_correction_replaces_its_rows(tmp_path: Path):
    here, there = settings_in(tmp_path), settings_in(tmp_path, path=str(tmp_path / "moved"))
    write_log(here, "a.parquet", [(1, "x", NOON)])
    ingest(here, TODAY)
    Path(here.logs.path).rename(there.logs.path)
    assert ingest(there, TODAY).files == 0
    write_log(there, "a.parquet", [(1, "y", NOON)])
    ingest(there, TODAY)
    assert events_of(there) == [(1, "y", NOON)]


def test_files_read_by_version_0_1_are_known_and_replaced_when_they_change(tmp_path: Path):
    folder = shutil.copytree(GOLDEN, tmp_path / "version_0_1")
    settings = settings_in(folder)
    for log in rows_of(settings, "log_files"):
        nanoseconds = int(log["source_stamp"].split()[0].split("-")[1])
        os.utime(folder / "logs" / log["source_file"], ns=(nanoseconds, nanoseconds))
    before = events_of(settings)
    result = ingest(settings, TODAY)
    assert (result.files, result.added, result.withdrawn) == (0, 0, 0)
    changed = "dt=2026-06-02/part-0.parquet"
    of_it = [row for row in rows_of(settings, "interactions") if row["source_file"] == changed]
    write_log(settings, changed, [(0, "sku-00", NOON)])
    result = ingest(settings, TODAY)
    assert (result.files, result.added, result.withdrawn) == (1, 1, len(of_it))
    gone = {(row["user_id"], row["item_id"], row["timestamp"]) for row in of_it}
    assert events_of(settings) == sorted([*(set(before) - gone), (0, "sku-00", NOON)])
    assert ingest(settings, TODAY).files == 0


# What the files hold in the end is what the tables hold

rows = st.tuples(
    st.none() | st.integers(0, 2),
    st.none() | st.sampled_from(["x", "y"]),
    st.sampled_from([NOON - HOUR, NOON, NOON + 24 * HOUR, NOON + 10**6 * HOUR]),
)
names = st.sampled_from("abc")
# Of a run: what files hold from then on; whether a file is renamed; the run date, which may be
# earlier than that of the run before; after the ingest, which file is forgotten.
runs = st.tuples(
    st.dictionaries(names, st.lists(rows, max_size=4)),
    st.booleans(),
    st.sampled_from([TODAY, TODAY + DAY]),
    st.none() | names,
)


def check_tables_depend_on_the_final_content_of_the_files_alone(
    history: list[tuple[dict[str, list[Any]], bool, date, str | None]], force: bool, batch_rows: int
):
    always = (0, "always", NOON)  # so that there is a good row
    last_day = TODAY + DAY

    def outcome(settings: Settings) -> tuple[list[Any], Counter[Any]]:
        names = ("user_id", "item_id", "timestamp", "reason", "source_file", "source_row")
        bad = rows_of(settings, "quarantine")
        return events_of(settings), Counter(tuple(row[name] for name in names) for row in bad)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_batches, "BATCH_ROWS", batch_rows)
        step, once = settings_in(Path(folder, "step")), settings_in(Path(folder, "once"))
        there: dict[str, list[Any]] = {}  # the files among the logs
        unread: dict[str, list[Any]] = {}  # those that were written since the last ingest
        final: dict[str, list[Any]] = {}  # those that were ingested and not forgotten since

        def write(name: str, content: list[Any]) -> None:
            path = write_log(step, name, content)
            if force:  # then it need not look changed
                os.utime(path, ns=(10**18, 10**18))
            there[name] = unread[name] = content

        def ingest_all(day: date) -> None:
            before = len(events_of(step))
            result = ingest(step, day, force=force)
            assert len(events_of(step)) - before == result.added - result.withdrawn
            final.update(there if force else unread)
            unread.clear()

        write("always.parquet", [always])
        for change, is_renamed, day, forgotten in history:
            for name, content in change.items():
                write(f"{name}.parquet", content)
            if is_renamed and "a.parquet" in there:
                logs = Path(step.logs.path)
                (logs / "a.parquet").rename(logs / "z.parquet")
                there["z.parquet"] = unread["z.parquet"] = there.pop("a.parquet")
                unread.pop("a.parquet", None)
            ingest_all(day)
            if f"{forgotten}.parquet" in final:
                forget(step, day, f"{forgotten}.parquet")
                del final[f"{forgotten}.parquet"]
        ingest_all(last_day)
        for name, content in final.items():
            write_log(once, name, content)
        result = ingest(once, last_day)
        events, bad = outcome(once)
        assert outcome(step) == (events, bad)
        assert result.rows == sum(map(len, final.values()))
        assert result.rows == len(events) + result.duplicates + bad.total()


test_tables_depend_on_the_final_content_of_the_files_alone, test_many_final_contents = few_and_many(
    check_tables_depend_on_the_final_content_of_the_files_alone,
    4,
    40,
    st.lists(runs, min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([6, 10**6]),
)


# Tables that lost rows


def lose_last_commit(settings: Settings, table: str) -> None:
    log = Path(table_uri(settings, table)) / "_delta_log"
    max(log.glob("*.json")).unlink()


@pytest.mark.parametrize("table", ["interactions", "quarantine"])
def test_rows_of_a_lost_commit_are_read_again(settings: Settings, table: str):
    write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "b.parquet", [(2, "x", NOON), (2, None, NOON)])
    ingest(settings, TODAY)
    lose_last_commit(settings, table)
    result = ingest(settings, TODAY)
    assert result.files == 1
    assert events_of(settings) == [(1, "x", NOON), (2, "x", NOON)]
    assert len(rows_of(settings, "quarantine")) == 2
    before = versions(settings)
    assert ingest(settings, TODAY).files == 0
    assert versions(settings) == before


def test_rows_of_a_quarantine_that_was_removed_are_read_again(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON)])
    ingest(settings, TODAY)
    shutil.rmtree(table_uri(settings, "quarantine"))
    assert ingest(settings, TODAY).quarantined == 1
    assert ingest(settings, TODAY).files == 0


def test_a_forced_ingest_restores_rows_however_they_were_lost(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (2, "x", NOON)])
    ingest(settings, TODAY)
    DeltaTable(table_uri(settings, "interactions")).delete("user_id = 1")
    result = ingest(settings, TODAY, force=True)
    assert (result.files, result.added, result.duplicates) == (1, 1, 1)
    assert events_of(settings) == [(1, "x", NOON), (2, "x", NOON)]
    assert ingest(settings, TODAY, force=True).added == 0


# Counts of ingests that were killed

LATE = NOON + timedelta(days=1)
CHANGES: dict[str, tuple[dict[str, list[Any]], dict[str, list[Any]]]] = {
    "a new file, and a row that is due": (
        {"a": [(1, "x", NOON), (1, "y", NOON), (1, "late", LATE)]},
        {"b": [(2, "x", NOON), (2, "y", NOON), (None, "y", NOON), (1, "x", NOON)]},
    ),
    "a file with other rows": (
        {"a": [(1, "x", NOON), (1, "y", NOON), (1, "late", LATE)]},
        {"a": [(1, "z", NOON), (1, "x", NOON), (1, "w", NOON)]},
    ),
    "events that go to another file": (
        {
            "a": [(1, "x", NOON), (1, "y", NOON), (1, "z", NOON)],
            "b": [(1, "x", NOON), (1, "y", NOON)],
        },
        {"a": [(1, "z", NOON), (1, "w", NOON)]},
    ),
    "all of these": (
        {
            "a": [(1, "x", NOON), (1, "y", NOON), (None, "y", NOON), (1, "late", LATE)],
            "b": [(2, "x", LATE), (2, "y", LATE), (1, "x", NOON)],
        },
        {
            "a": [(1, "z", NOON), (1, "y", NOON), (1, None, NOON), (1, "z", NOON)],
            "c": [(2, "x", LATE), (3, "x", NOON), (3, "x", NOON), (None, "x", NOON)],
        },
    ),
}


def write_logs(settings: Settings, logs: dict[str, list[Any]]) -> None:
    for name, rows in logs.items():
        write_log(settings, f"{name}.parquet", rows)


def killed_after(settings: Settings, write: int) -> bool:
    """Ingest until after a write to a table; whether it came so far."""
    unpatched, writes = deltalake.write_deltalake, count(1)

    def dies(*arguments: Any, **options: Any) -> None:
        unpatched(*arguments, **options)
        if next(writes) == write:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deltalake, "write_deltalake", dies)
        try:
            ingest(settings, LATE.date())
        except KeyboardInterrupt:
            return True
    return False


def counts_of(result: Ingested) -> Ingested:
    return replace(result, interactions_id="", interactions_version=0)


@pytest.mark.parametrize(
    "change",  # the others are parts of the last
    [*(pytest.param(name, marks=pytest.mark.slow) for name in [*CHANGES][:2]), *[*CHANGES][2:]],
)
def test_counts_of_a_killed_ingest_are_those_of_one_that_was_not(
    settings: Settings, change: str, tmp_path: Path
):
    before, now = CHANGES[change]
    write_logs(settings, before)
    ingest(settings, TODAY)
    warehouse, kept = Path(settings.warehouse), tmp_path / "kept"
    shutil.copytree(warehouse, kept)
    write_logs(settings, now)
    whole = ingest(settings, LATE.date())
    events, bad = events_of(settings), rows_of(settings, "quarantine")
    for write in range(1, 5):
        shutil.rmtree(warehouse)
        shutil.copytree(kept, warehouse)
        if killed_after(settings, write):
            killed_after(settings, 1)
            result = ingest(settings, LATE.date(), recorded=False)
            assert counts_of(result) == counts_of(whole), write
            assert events_of(settings) == events
            assert rows_of(settings, "quarantine") == bad
            assert ingest(settings, LATE.date()).rows == 0


def test_a_file_that_came_after_the_kill_is_counted_beside_the_others(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "y", NOON), (1, "x", NOON)])
    assert killed_after(settings, 1)
    write_log(settings, "b.parquet", [(1, "x", NOON), (2, "x", NOON), (None, "x", NOON)])
    result = ingest(settings, LATE.date())
    counts = (result.files, result.rows, result.added, result.duplicates, result.quarantined)
    assert counts == (2, 6, 3, 2, 1)
