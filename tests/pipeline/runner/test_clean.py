"""Housekeeping: what is removed, what is kept, and what a run that is at work keeps."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import pipeline.bundles.unused
import pipeline.runner.clean
from pipeline.bundles.promotion import promote
from pipeline.bundles.registry import read_registry
from pipeline.bundles.unused import remove_models
from pipeline.bundles.versions import list_versions
from pipeline.config.retention_section import RetentionSettings
from pipeline.config.settings import Settings
from pipeline.errors import BusyError
from pipeline.reporting.report import write_index
from pipeline.results import Cleaned, Trained
from pipeline.runner.cache import StageRecord
from pipeline.runner.clean import clean, clean_after_run
from pipeline.runner.status import status
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.locks import exclusive_lock
from pipeline.warehouse.runs import append_run
from tests.conftest import describe

FIRST = date(2026, 6, 1)
DAYS = [FIRST + timedelta(days=day) for day in range(8)]
HELD = 3  # the date on which the model of the day before serves


def version(number: int) -> str:
    """The name of the model of one of the days, as a run gives it."""
    return f"{DAYS[number]:%Y%m%d}-{number}"


def versions(*numbers: int) -> set[str]:
    return {version(number) for number in numbers}


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """Eight nights: a partition, a bundle and a work folder each; the fourth was held."""
    monkeypatch.setattr(pipeline.bundles.unused, "_YOUNG", timedelta(0))
    uri, entries = str(tmp_path / "warehouse/recommendations"), []
    for number, day in enumerate(DAYS):
        served = number - 1 if number == HELD else number
        rows = {"user_id": [1, 2], "model_version": [version(served)] * 2, "run_date": [day] * 2}
        write_deltalake(uri, pa.table(rows), mode="append", partition_by=["run_date"])
        bundle = tmp_path / f"warehouse/models/{version(number)}"
        bundle.mkdir(parents=True)
        (bundle / "items.bin").write_bytes(b"x" * 100)
        described = describe(version(number))
        (bundle / "bundle.json").write_text(described.model_dump_json())
        decision = "held" if number == HELD else "promoted"
        entries.append({"run_date": str(day), "model_version": version(served),
                        "path": version(served),
                        "decision": decision})  # fmt: skip
        work = tmp_path / f"work/run_date={day}/prepared"
        work.mkdir(parents=True)
        (work / "file").write_text("x" * 1000)
    newest, *previous = reversed(entries)
    champion = tmp_path / "warehouse/models/champion.json"
    champion.write_text(json.dumps({**newest, "previous": previous}))
    return Warehouse(str(tmp_path / "warehouse"))


@pytest.fixture
def cleaned(warehouse: Warehouse, tmp_path: Path) -> Callable[..., Cleaned]:
    def run(dry_run: bool = False, **limits: Any) -> Cleaned:
        retention = {"work": "all", "models": "all", "recommendations": "all", **limits}
        return clean(
            Settings(
                warehouse=warehouse.root,
                work_dir=tmp_path / "work",
                retention=RetentionSettings(**retention),
            ),
            dry_run=dry_run,
        )

    return run


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_by_default_a_week_of_nights_stays_but_for_the_oldest_work_folder(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    gone = clean(Settings(warehouse=warehouse.root, work_dir=tmp_path / "work"))
    assert gone.work == (FIRST,)
    assert (gone.models, gone.partitions) == ((), ())


def test_a_dry_run_removes_nothing_and_says_the_same(
    cleaned: Callable[..., Cleaned], tmp_path: Path
) -> None:
    def everything() -> dict[str, int]:
        files = [
            path for path in tmp_path.rglob("*") if path.is_file() and ".lock" not in path.name
        ]
        return {str(path): path.stat().st_size for path in files}

    before = everything()
    limits = {"work": 2, "models": 2, "recommendations": 3}
    planned = cleaned(dry_run=True, **limits)
    assert everything() == before
    done = cleaned(**limits)
    assert (planned.work, planned.models, planned.partitions) == (
        done.work,
        done.models,
        done.partitions,
    )
    assert planned.bytes >= 6 * 1000 + 4 * 100


def test_related_items_and_embeddings_go_with_the_recommendations(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse
) -> None:
    names = "related_items", "item_embeddings", "user_embeddings"
    for name in names:
        rows = pa.table({"score": [1.0] * 4, "run_date": [DAYS[0], DAYS[4], DAYS[5], DAYS[7]]})
        write_deltalake(warehouse.table(name), rows, partition_by=["run_date"])
    cleaned(recommendations=3)
    versions = {name: DeltaTable(warehouse.table(name)).version() for name in names}
    for name in names:
        rows = DeltaTable(warehouse.table(name)).to_pyarrow_table()
        assert {*rows["run_date"].to_pylist()} == {DAYS[5], DAYS[7]}
    cleaned(recommendations=2)  # whose oldest is DAYS[6]
    assert DeltaTable(warehouse.table("related_items")).version() > versions["related_items"]
    versions = {name: DeltaTable(warehouse.table(name)).version() for name in names}
    cleaned(recommendations=1, dry_run=True)
    assert versions == {name: DeltaTable(warehouse.table(name)).version() for name in names}


def test_models_that_partitions_name_stay(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse, tmp_path: Path
) -> None:
    gone = cleaned(models=2, recommendations=5)  # the fourth date is served by the third's model
    assert set(gone.partitions) == set(DAYS[:3])
    assert left(tmp_path / "warehouse/models") == versions(2, 4, 5, 6, 7)
    assert set(gone.models) == versions(0, 1, 3)
    registry = read_registry(warehouse)
    assert registry is not None
    assert {each.model_version for each in registry.history} == versions(2, 4, 5, 6, 7)
    days = DeltaTable(warehouse.table("recommendations")).partitions()
    assert {each["run_date"] for each in days} == {str(day) for day in DAYS[3:]}


def test_partitions_that_went_leave_no_folders(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse
) -> None:
    folder = Path(warehouse.table("recommendations"))
    cleaned(recommendations=3, table_days=7)  # their files stay, for who reads it as it was
    assert left(folder) == {"_delta_log", *(f"run_date={day}" for day in DAYS)}
    cleaned(recommendations=3, table_days=0)
    assert left(folder) == {"_delta_log", *(f"run_date={day}" for day in DAYS[5:])}


def test_reports_go_with_the_recommendations_and_leave_the_index(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse, tmp_path: Path
) -> None:
    reports = tmp_path / "warehouse/reports"
    for day in DAYS:
        append_run(warehouse, {"run_date": day, "decision": "promoted", "seconds": 1.0})
        (reports / str(day)).mkdir(parents=True)
        (reports / str(day) / "report.html").write_text("x")
    (reports / "notes").mkdir()  # a person's
    write_index(warehouse)
    assert cleaned(recommendations=3, dry_run=True).reports == tuple(DAYS[4::-1])
    assert left(reports) == {"notes", *map(str, DAYS)}
    assert cleaned(recommendations=3).reports == tuple(DAYS[4::-1])
    assert left(reports) == {"notes", *map(str, DAYS[5:])}
    index = (reports / "index.html").read_text()
    for day in DAYS:
        assert str(day) in index
        assert (f'href="{day}/report.html"' in index) == (day in DAYS[5:])
    assert cleaned(recommendations=3).reports == ()


def test_a_young_model_stays(
    cleaned: Callable[..., Cleaned], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    age = datetime.now(UTC) - describe().created_at
    monkeypatch.setattr(pipeline.bundles.unused, "_YOUNG", age + timedelta(hours=1))
    assert cleaned(models=1, recommendations=1).models == ()
    monkeypatch.setattr(pipeline.bundles.unused, "_YOUNG", age - timedelta(hours=1))
    assert len(cleaned(models=1, recommendations=1).models) == 6  # the newest started from another


def test_a_model_that_is_promoted_meanwhile_stays(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = version(0)

    def promote_first(*arguments: Any) -> tuple[str, ...]:
        promote(warehouse, chosen)
        return remove_models(*arguments)

    monkeypatch.setattr(pipeline.runner.clean, "remove_models", promote_first)
    gone = cleaned(models=1, recommendations=1).models
    registry = read_registry(warehouse)
    assert registry is not None
    assert registry.model_version == chosen
    assert set(gone) == versions(1, 2, 3, 4, 5)
    assert chosen in left(Path(warehouse.root, "models"))


def test_a_copy_of_a_model_hinders_nothing_and_is_named(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse
) -> None:
    models = Path(warehouse.root, "models")
    copy = shutil.copytree(models / version(0), models / f"{version(0)}.keep")
    for _ in range(2):
        cleaned(models=1, recommendations=1, work=1)
        assert left(models) == {*versions(6, 7), copy.name}
    (line,) = list_versions(warehouse).unreadable
    assert line == f"{copy}: a copy of {version(0)}, under another name"


def test_models_that_another_machine_removed_meanwhile_are_no_failure(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_twice(*arguments: Any) -> tuple[str, ...]:
        remove_models(*arguments)
        return remove_models(*arguments)

    monkeypatch.setattr(pipeline.runner.clean, "remove_models", remove_twice)
    assert set(cleaned(models=1, recommendations=1).models) == versions(0, 1, 2, 3, 4, 5)


def test_a_run_that_is_at_work_keeps_its_folder(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse, tmp_path: Path
) -> None:
    locations = RunLocations(warehouse, tmp_path / "work", DAYS[1])
    with exclusive_lock(locations.lock, "busy", locations.folder):
        assert set(cleaned(work=5).work) == {DAYS[0], DAYS[2]}
    assert left(tmp_path / "work") == {f"run_date={day}" for day in (DAYS[1], *DAYS[3:])}


def test_no_run_begins_in_a_folder_that_is_being_removed(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> None:
        with (
            pytest.raises(BusyError),
            exclusive_lock(path.parent / ".lock", "busy", path.parent),
        ):
            pass
        rmtree(path)

    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", locked)
    assert set(cleaned(work=5).work) == set(DAYS[:3])
    monkeypatch.undo()
    assert left(Path(warehouse.root).parent / "work") == {f"run_date={day}" for day in DAYS[3:]}


def test_tables_lose_what_no_kept_version_needs_and_no_row(
    cleaned: Callable[..., Cleaned], warehouse: Warehouse
) -> None:
    uri = warehouse.table("interactions")
    for number in range(20):
        write_deltalake(uri, pa.table({"a": [number]}), mode="append")
    assert cleaned(table_days=7).tables[0].compacted == 20
    assert len(list(Path(uri).glob("*.parquet"))) == 21  # for who reads it as it was
    assert DeltaTable(uri, 10).to_pyarrow_table().num_rows == 11
    (table,) = (each for each in cleaned(table_days=0).tables if each.name == "interactions")
    assert (table.files, table.compacted) == (20, 0)
    assert len(list(Path(uri).glob("*.parquet"))) == 1
    assert sorted(DeltaTable(uri).to_pyarrow_table()["a"].to_pylist()) == list(range(20))
    assert len(list(Path(uri, "_delta_log").glob("*.json"))) < 5


def test_a_finished_run_leaves_its_weights_and_no_checkpoints(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    locations = RunLocations(warehouse, tmp_path / "work", DAYS[-1])
    kept, other = locations.training / "abc", locations.training / "def"
    for folder in (kept / "held_out", kept / "model", other / "held_out"):
        folder.mkdir(parents=True)
        for name in ("last.ckpt", "best.ckpt", "finished.json", "metrics.csv"):
            (folder / name).write_text("x")
    (kept / "model.safetensors").write_text("x")
    found = Trained(Path(os.path.relpath(kept)), 1, 0.5, None, refit=True)  # spelled otherwise
    trained = StageRecord("train", "", "", 0.0, found)
    settings = Settings(warehouse=warehouse.root, work_dir=tmp_path / "work")
    clean_after_run(settings.model_copy(update={"retention": RetentionSettings(after_runs=False)}),
                    locations, trained)  # fmt: skip
    assert other.exists()
    clean_after_run(settings, locations, trained)
    assert not other.exists()
    names = {path.name for path in kept.rglob("*") if path.is_file()}
    assert names == {"finished.json", "metrics.csv", "model.safetensors"}


def test_housekeeping_that_fails_fails_no_run(
    warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path(warehouse.root, "models/champion.json").write_text("{")
    settings = Settings(warehouse=warehouse.root, work_dir=tmp_path / "work")
    clean_after_run(settings, RunLocations(warehouse, tmp_path / "work", DAYS[-1]), None)
    assert "the housekeeping failed" in caplog.text
    assert "champion.json" in caplog.text


def test_the_status_is_that_of_the_newest_run_of_each_date(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    settings = Settings(warehouse=warehouse.root, work_dir=tmp_path / "work")
    found = status(settings, 14)
    assert (found.champion, found.candidate, found.runs) == (version(7), None, ())
    assert found.disk["models"] > 8 * 100
    assert found.disk["work_dir"] == 8 * 1000
    assert found.disk["interactions"] == 0
    models = Path(warehouse.root, "models")
    assert found.champion_fault is None
    described = describe(version(7)).model_copy(update={"files": {"gone.onnx": "0"}})
    (models / version(7) / "bundle.json").write_text(described.model_dump_json())
    assert "gone.onnx: a file of the bundle is missing" in str(status(settings, 14).champion_fault)
    shutil.rmtree(models / version(7))
    assert f"no such model version; found {version(7)}" in str(status(settings, 14).champion_fault)
