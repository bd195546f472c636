"""A table that cannot be read or written is the place that the error names."""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.config.settings import Settings
from pipeline.errors import StorageError
from pipeline.runner.failures import storage_failures
from pipeline.schema import RECOMMENDATIONS, RUNS
from pipeline.storage.locations import Warehouse
from pipeline.warehouse import tables
from pipeline.warehouse.housekeeping import clean_table, published_models
from pipeline.warehouse.lookup import first_users, recommended_to
from pipeline.warehouse.runs import runs_before
from tests.helpers.ingest_cases import NOON, TODAY, settings_in, write_log
from tests.helpers.stages import ingest, prepare, table_uri

DAY = date(2026, 6, 1)
ROWS = pa.table({"user_id": [1, 2], "model_version": ["a", "a"], "run_date": [DAY] * 2})
WIDER = ROWS.schema.append(pa.field("new", pa.int64()))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path / "a folder")


@pytest.fixture
def table(settings: Settings) -> DeltaTable:
    uri = table_uri(settings, RECOMMENDATIONS)
    write_deltalake(uri, ROWS, partition_by=["run_date"])
    return DeltaTable(uri)


def where_of(settings: Settings, action: Callable[[], Any]) -> str:
    """What the one line of an error blames."""
    with pytest.raises(StorageError, match=r"^[^\n]+$") as caught, storage_failures(settings):
        action()
    return caught.value.where


@pytest.mark.parametrize(
    "write",
    [
        lambda table: tables.append(table, ROWS.to_reader()),
        lambda table: tables.replace(table, ROWS.to_reader()),
        lambda table: tables.replace_where(table, "model_version", ["a"], ROWS.to_reader()),
        lambda table: tables.delete(table, "user_id = 1"),
        lambda table: tables.widen(table, WIDER),
        lambda table: tables.replace_run_date(table, ROWS, DAY, ("scoring", 1)),
        lambda table: tables.create_table(f"{tables.place_of(table)}/below", ROWS.schema),
    ],
)
def test_what_cannot_be_written(
    settings: Settings, table: DeltaTable, write: Callable[[DeltaTable], None]
) -> None:
    place = Path(table_uri(settings, RECOMMENDATIONS))
    shutil.rmtree(place)
    place.write_text("a file in the place of the folder")
    assert where_of(settings, lambda: write(table)).startswith(str(place))


@pytest.mark.parametrize(
    "read",
    [
        lambda warehouse: tables.read_rows(tables.open_table(warehouse.table(RECOMMENDATIONS))),
        lambda warehouse: tables.count_rows(tables.open_table(warehouse.table(RECOMMENDATIONS))),
        published_models,
        lambda warehouse: recommended_to(warehouse, [1], DAY),
        lambda warehouse: first_users(warehouse, DAY, 1),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_what_cannot_be_read(
    settings: Settings, table: DeltaTable, read: Callable[[Warehouse], Any], is_there: bool
) -> None:
    place = Path(table_uri(settings, RECOMMENDATIONS))
    for file in place.rglob("*.parquet"):
        file.write_bytes(b"") if is_there else file.unlink()
    where = where_of(settings, lambda: read(Warehouse(settings.warehouse)))
    assert where.startswith(str(place))


def test_a_log_of_a_table_that_cannot_be_read(settings: Settings, table: DeltaTable) -> None:
    (log,) = Path(table_uri(settings, RECOMMENDATIONS)).glob("_delta_log/*.json")
    log.write_text("{")
    where = where_of(settings, lambda: published_models(Warehouse(settings.warehouse)))
    assert where == table_uri(settings, RECOMMENDATIONS)


def test_upkeep_that_cannot_write(settings: Settings, table: DeltaTable) -> None:
    place = Path(table_uri(settings, RECOMMENDATIONS))
    (place / "_delta_log" / "_last_checkpoint").mkdir()
    warehouse, kept = Warehouse(settings.warehouse), timedelta(days=1)
    where = where_of(settings, lambda: clean_table(warehouse, RECOMMENDATIONS, kept, dry_run=False))
    assert where == str(place)


def test_runs_that_cannot_be_read(settings: Settings) -> None:
    uri = table_uri(settings, RUNS)
    write_deltalake(uri, ROWS)
    for file in Path(uri).glob("*.parquet"):
        file.unlink()
    where = where_of(settings, lambda: runs_before(Warehouse(settings.warehouse), date.max, 1))
    assert where.startswith(uri)


@pytest.mark.parametrize(
    ("name", "stage"),
    [("interactions", "ingest"), ("quarantine", "ingest"), ("interactions", "prepare")],
)
def test_rows_that_a_stage_cannot_read(settings: Settings, name: str, stage: str) -> None:
    """Through DuckDB, which reads them in its own queries."""
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, None, NOON), (2, "y", NOON)])
    ingested = ingest(settings, TODAY)
    write_log(settings, "a.parquet", [(1, "x", NOON), (2, None, NOON), (2, "z", NOON)])
    for file in Path(table_uri(settings, name)).glob("*.parquet"):
        # All but the footer, which tells where the pages are.
        content = bytearray(file.read_bytes())
        size = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        content[4:size] = b"\xff" * (size - 4)
        file.write_bytes(content)
    where = where_of(
        settings,
        lambda: (
            ingest(settings, TODAY) if stage == "ingest" else prepare(settings, TODAY, ingested)
        ),
    )
    assert where == table_uri(settings, name)
