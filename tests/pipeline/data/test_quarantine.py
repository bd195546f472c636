"""The quarantine: what it says of a bad row, and which rows leave it."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.config.settings import Settings
from tests.helpers.ingest_cases import (
    NOON,
    TODAY,
    events_of,
    rows_of,
    settings_in,
    versions,
    write_log,
)
from tests.helpers.stages import ingest, table_uri

DAY = timedelta(days=1)
EPOCH = int(NOON.timestamp())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (EPOCH * 1000, pa.int64(), str(EPOCH * 1000)),
        (EPOCH // 1000, pa.int64(), str(EPOCH // 1000)),
        (float("nan"), pa.float64(), "nan"),
        (NOON + 10 * DAY, pa.timestamp("us", "UTC"), "2026-06-20 12:00:00.000000Z"),
    ],
    ids=str,
)
def test_the_quarantine_keeps_the_raw_value_of_a_bad_time(
    settings: Settings, value: Any, kind: pa.DataType, text: str
):
    write_log(settings, "good.parquet", [(1, "x", EPOCH), (None, "x", EPOCH)], time=pa.int64())
    write_log(settings, "bad.parquet", [(1, "x", value)] * 150, time=kind)
    result = ingest(settings, TODAY)
    assert (result.added, result.quarantined) == (1, 151)
    raw = {row["source_file"]: row["raw_timestamp"] for row in rows_of(settings, "quarantine")}
    assert raw == {"good.parquet": None, "bad.parquet": text}
    reasons = dict(result.quarantined_by_reason)
    assert reasons.pop("null user_id") == 1
    ((reason, count),) = reasons.items()
    assert "timestamp" in reason
    assert count == 150


def test_a_file_with_another_bad_time_at_the_same_place_is_in_quarantine_with_that(
    settings: Settings,
):
    write_log(settings, "good.parquet", [(1, "x", NOON)])
    for text in ("garbage", "2026-06-10 12:00 PM"):
        write_log(settings, "bad.parquet", [(1, "x", text)], time=pa.string())
        assert ingest(settings, TODAY).quarantined == 1
        assert [row["raw_timestamp"] for row in rows_of(settings, "quarantine")] == [text]


def test_a_quarantine_of_version_0_1_gets_the_column_it_lacks(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON)])
    ingest(settings, TODAY)
    uri = table_uri(settings, "quarantine")

    old = DeltaTable(uri).to_pyarrow_table().drop_columns(["raw_timestamp"])
    write_deltalake(uri, old, mode="overwrite", schema_mode="overwrite")
    write_log(settings, "b.parquet", [(1, "y", NOON + 20 * DAY)])
    ingest(settings, TODAY)
    raw = sorted(str(row["raw_timestamp"]) for row in rows_of(settings, "quarantine"))
    assert raw == ["2026-06-30 12:00:00.000000Z", "None"]


def test_rows_of_version_0_1_are_no_new_ones_when_their_file_is_read_again(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", "2026-06-10"), (1, "x", "noon")], time=pa.string())
    ingest(settings, TODAY)
    uri = table_uri(settings, "quarantine")
    old = DeltaTable(uri).to_pyarrow_table().drop_columns(["raw_timestamp"])
    write_deltalake(uri, old, mode="overwrite", schema_mode="overwrite")
    assert ingest(settings, TODAY + DAY, force=True).quarantined == 0
    assert [row["run_date"] for row in rows_of(settings, "quarantine")] == [TODAY]


def test_a_row_that_falls_due_with_ids_of_another_type_stays(settings: Settings):
    write_log(
        settings,
        "text.parquet",
        [("ann", "x", NOON), ("ann", "y", NOON + DAY), ("7", "8", NOON + DAY)],
        user=pa.string(),
    )
    ingest(settings, TODAY)
    # The ids become integers: the tables of events are made anew, the quarantine is not.
    for name in ("interactions", "log_files"):
        shutil.rmtree(table_uri(settings, name))
    (Path(settings.logs.path) / "text.parquet").unlink()
    write_log(settings, "numbers.parquet", [(1, 2, NOON)], item=pa.int64())
    result = ingest(settings, TODAY + DAY)
    assert (result.added, result.quarantined) == (2, 0)
    assert events_of(settings) == [(1, 2, NOON), (7, 8, NOON + DAY)]
    (row,) = rows_of(settings, "quarantine")
    assert (row["user_id"], row["reason"]) == ("ann", "ids of another type than in interactions")
    before = versions(settings)
    ingest(settings, TODAY + DAY)
    assert versions(settings) == before
