"""A Delta table as the source of logs: events are its rows, whatever was done to the table."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.config.settings import Settings
from pipeline.errors import InputError, SchemaError
from pipeline.logs.log_files import list_log_files
from pipeline.warehouse.log_table import list_logs
from tests.helpers.ingest_cases import (
    NOON,
    TODAY,
    events_of,
    rows_of,
    settings_in,
    versions,
    write_log,
)
from tests.helpers.stages import ingest

Rows = list[tuple[int | None, str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def table_of(rows: Rows) -> pa.Table:
    users, items = zip(*rows, strict=True)
    times = pa.array([NOON] * len(rows), pa.timestamp("us", "UTC"))
    return pa.table({"user_id": users, "item_id": items, "timestamp": times})


def write(settings: Settings, rows: Rows, **options: Any) -> None:
    write_deltalake(settings.logs.path, table_of(rows), mode="append", **options)


def expected(settings: Settings) -> list[Any]:
    """The distinct rows of the source, by delta-rs."""
    rows = DeltaTable(settings.logs.path).to_pyarrow_table().to_pylist()
    return sorted({(row["user_id"], row["item_id"], row["timestamp"]) for row in rows})


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))]
)
def test_events_are_the_rows_of_the_newest_version(settings: Settings, seed: int) -> None:
    choose = random.Random(seed)

    def some_rows() -> Rows:
        return [(choose.randrange(5), choose.choice("xyz")) for _ in range(choose.randrange(1, 6))]

    write(settings, some_rows())
    for _ in range(10):
        table = DeltaTable(settings.logs.path)
        act = choose.choice(["append", "append", "delete", "update", "compact", "restore"])
        if act == "delete":
            table.delete(f"user_id = {choose.randrange(5)}")
        elif act == "update":
            values = {"item_id": choose.choice("xyz")}
            table.update(predicate=f"user_id = {choose.randrange(5)}", new_values=values)
        elif act == "compact":
            table.optimize.compact()
        elif act == "restore" and table.version():
            table.restore(choose.randrange(table.version()))
        else:
            write(settings, some_rows())
        if choose.random() < 0.6 and expected(settings):
            ingest(settings, TODAY)
            assert events_of(settings) == expected(settings)
    write(settings, [(9, "end")])
    ingest(settings, TODAY)
    assert events_of(settings) == expected(settings)
    before = versions(settings)
    result = ingest(settings, TODAY)
    assert (result.files, versions(settings)) == (0, before)


def test_compaction_and_vacuum_change_no_event(settings: Settings) -> None:
    for user in range(4):
        write(settings, [(user, "x"), (0, "x")])
    ingest(settings, TODAY)
    before = events_of(settings)
    table = DeltaTable(settings.logs.path)
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    result = ingest(settings, TODAY)
    assert (result.files, result.added, result.withdrawn) == (1, 0, 0)
    assert events_of(settings) == before
    assert {row["source_file"] for row in rows_of(settings, "interactions")} == {
        file.name for file in list_logs(settings.logs.path)
    }


def test_a_file_that_comes_back_is_read_again(settings: Settings) -> None:
    write(settings, [(1, "x"), (2, "x")])
    write(settings, [(3, "x"), (None, "x")])
    ingest(settings, TODAY)
    table = DeltaTable(settings.logs.path)
    table.delete("user_id = 1")
    result = ingest(settings, TODAY)
    assert (result.added, result.withdrawn) == (0, 1)
    table.restore(1)
    result = ingest(settings, TODAY)
    assert (result.added, result.withdrawn, result.quarantined) == (1, 0, 0)
    assert [user for user, _, _ in events_of(settings)] == [1, 2, 3]
    assert len(rows_of(settings, "quarantine")) == 1
    table.restore(0)
    assert ingest(settings, TODAY).withdrawn == 1
    assert rows_of(settings, "quarantine") == []


def test_only_new_commits_are_read(settings: Settings) -> None:
    write(settings, [(1, "x"), (2, "x")])
    assert ingest(settings, TODAY).added == 2
    write(settings, [(3, "x")])
    result = ingest(settings, TODAY)
    assert (result.files, result.rows, result.added) == (1, 1, 1)


def test_partitions_with_odd_names_are_found(settings: Settings) -> None:
    rows = table_of([(1, "x"), (2, "x")]).append_column("day", pa.array(["a b%c", "x:y=/"]))
    write_deltalake(settings.logs.path, rows, partition_by=["day"])
    assert ingest(settings, TODAY).added == 2
    mapped = settings_in(Path(settings.warehouse).parent, event_type="day")
    with pytest.raises(SchemaError, match="no column 'day'"):
        ingest(mapped, TODAY)


def test_a_file_outside_of_the_table_keeps_its_rows(settings: Settings, tmp_path: Path) -> None:
    path = write_log(settings, "a.parquet", [(7, "x", NOON)])
    ingest(settings, TODAY)
    path.unlink()
    table = settings_in(tmp_path).model_copy(
        update={"logs": settings.logs.model_copy(update={"path": str(tmp_path / "table")})}
    )
    write(table, [(1, "x")])
    assert ingest(table, TODAY).withdrawn == 0
    assert [user for user, _, _ in events_of(table)] == [1, 7]


@pytest.mark.parametrize("mode", ["deletion vectors", "column mapping", "no rows"])
def test_what_the_files_do_not_tell_is_refused(settings: Settings, mode: str) -> None:
    write(settings, [(1, "x")])
    log = Path(settings.logs.path) / "_delta_log" / f"{0:020}.json"
    lines = log.read_text()
    if mode == "no rows":
        DeltaTable(settings.logs.path).delete()
    elif mode == "column mapping":
        named = '"configuration":{"delta.columnMapping.mode":"name"}'
        log.write_text(lines.replace('"configuration":{}', named))
    else:
        names = '["deletionVectors"]'
        features = f'"minWriterVersion":7,"readerFeatures":{names},"writerFeatures":{names}'
        lines = lines.replace('"minReaderVersion":1', '"minReaderVersion":3')
        log.write_text(lines.replace('"minWriterVersion":2', features))
    with pytest.raises(InputError, match=r"deletionVectors|columnMapping|a table without rows"):
        ingest(settings, TODAY)
    assert rows_of(settings, "interactions") == []


def test_scoring_refuses_a_table(settings: Settings) -> None:
    write(settings, [(1, "x")])
    with pytest.raises(InputError, match="a table, of whose Parquet files"):
        list_log_files(settings.logs.path)
