"""What killed runs leave is removed by a later one, and nothing that a running one needs."""

import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.storage.leftovers import remove_unfinished_uploads, scratch_folder
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.locks import exclusive_lock
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings
from tests.helpers.scoring_cases import Killed

DAY = date(2026, 7, 2)
UNIQUE = "0123456789abcdef"  # in the name of a file that is being written


def locations(
    folder: Path, day: date = DAY, resources: ResourceSettings = DEFAULT_RESOURCES
) -> RunLocations:
    return RunLocations(Warehouse(str(folder / "warehouse")), folder / "work", day, resources)


def spill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "duckdb_temp_storage.tmp").write_bytes(bytes(100))
    return folder


def age(path: Path, seconds: float) -> Path:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize("shared", [False, True])
def test_the_scratch_of_killed_runs_is_removed_and_that_of_running_ones_stays(
    tmp_path: Path, shared: bool
) -> None:
    resources = ResourceSettings(scratch_dir=tmp_path / "fast" if shared else None)
    mine, killed, running = (
        locations(tmp_path, DAY - timedelta(days=days), resources) for days in range(3)
    )
    assert mine.scratch.is_relative_to(tmp_path / ("fast" if shared else "work"))
    others = spill(locations(tmp_path / "other", killed.run_date, resources).scratch)
    for run in (mine, killed, running):
        spill(run.scratch)
    old = age(spill(tmp_path / "work" / "ingest-abc123"), 90_000)
    download = age(spill(tmp_path / "work" / "models" / ".download-abc123"), 90_000)
    recent = spill(tmp_path / "work" / "prepare-abc123")
    kept = spill(killed.prepared)
    with exclusive_lock(running.lock, "busy", running.folder), scratch_folder(mine) as folder:
        assert not list(folder.iterdir())
        assert [path.exists() for path in (killed.scratch, running.scratch)] == [False, True]
        assert [path.exists() for path in (old, download, recent, kept)] == [
            False, False, True, True
        ]  # fmt: skip
        assert others.exists()
    assert not mine.scratch.exists()
    with pytest.raises(Killed), scratch_folder(mine):
        raise Killed
    assert not mine.scratch.exists()


def test_records_that_killed_runs_had_begun_are_removed(tmp_path: Path) -> None:
    mine = locations(tmp_path)
    killed, running = (locations(tmp_path, DAY - timedelta(days=days)) for days in (1, 2))
    begun = {}
    for run in (mine, killed, running):
        folder = run.training / "key" / "held_out"
        folder.mkdir(parents=True)
        names = (run.folder / ".train.json", folder / ".finished.json")
        begun[run] = [name.with_name(f"{name.name}.{UNIQUE}.tmp") for name in names]
        for path in begun[run]:
            path.write_text("{")
    others = [mine.folder / ".mine.tmp", mine.folder / "train.json"]
    for path in others:
        path.write_text("{")
    with exclusive_lock(running.lock, "busy", running.folder), scratch_folder(mine):
        there = [path.exists() for run in (mine, killed, running) for path in begun[run]]
    assert there == [False, False, False, False, True, True]
    assert all(path.exists() for path in others)


def test_unfinished_files_of_tables_are_removed_unless_they_are_being_written(
    tmp_path: Path,
) -> None:
    warehouse = locations(tmp_path).warehouse
    partition = Path(warehouse.table("recommendations")) / "run_date=2026-07-01"
    log = Path(warehouse.table("interactions")) / "_delta_log"
    partition.mkdir(parents=True)
    log.mkdir(parents=True)
    names = ["part-0.parquet", "part-1.parquet#1", "part-2.parquet#12", "mine#1"]
    for name in names:
        age(spill(partition / "x") / "duckdb_temp_storage.tmp", 0).rename(partition / name)
        (partition / "x").rmdir()
        if name != "part-2.parquet#12":
            age(partition / name, 120)
    models = Path(warehouse.table("models"))
    models.mkdir()
    begun = [models / f".champion.json.{digit * 16}.tmp" for digit in "01"]
    for path in begun:
        path.write_text("{")
    age(begun[0], 120)
    (log / "00000000000000000007.json#1").write_text("{")
    age(log / "00000000000000000007.json#1", 120)

    remove_unfinished_uploads(warehouse)

    assert sorted(path.name for path in partition.iterdir()) == [
        "mine#1",
        "part-0.parquet",
        "part-2.parquet#12",
    ]
    assert not list(log.iterdir())
    assert list(models.iterdir()) == [begun[1]]
    remove_unfinished_uploads(Warehouse("s3://bucket/warehouse"))  # nothing to look for
