"""`fearec status`, `clean` and `backfill`: what they print, on a warehouse made by hand."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.filesize import decimal
from typer.testing import CliRunner

from flows.cli.main import app
from pipeline.bundles.registry import register_candidate
from pipeline.config.settings import Settings
from pipeline.errors import StorageError
from pipeline.results import Gated
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.nightly import FinishedRun
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.runs import append_run
from tests.pipeline.runner.test_clean import DAYS, version, warehouse

__all__ = ["warehouse"]  # a fixture

LIMITS = {"work": 6, "models": 2, "recommendations": 3}
PRINTED_BY_CLEAN = {
    "dry_run", "work", "models", "partitions", "reports", "tables", "bytes",
}  # fmt: skip
HOLDS = "NDCG@10 0.1000 is below the champion's 0.2000"


def shown(warehouse: Warehouse, *arguments: str) -> str:
    places = [f"warehouse={warehouse.root}", f"work_dir={Path(warehouse.root).parent}/work"]
    options = [part for place in places for part in ("--set", place)]
    done = CliRunner().invoke(app, [*arguments, *options])
    if done.exception:
        raise done.exception
    assert done.stderr == ""
    return done.stdout


def files_of(warehouse: Warehouse) -> dict[str, int]:
    below = Path(warehouse.root).parent.rglob("*")
    return {
        str(path): path.stat().st_size for path in below if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def recorded(warehouse: Warehouse, tmp_path: Path) -> Warehouse:
    """The warehouse with the rows of its last three nights: promoted, held and failed."""
    register_candidate(RunLocations(warehouse, tmp_path / "work", DAYS[7]), "20260608-held")
    for number, decision, serves, value, problems in (
        (5, "promoted", version(5), 0.25, {}),
        (6, "held", version(5), 0.1, {"reasons": [HOLDS]}),
        (7, "failed", None, None, {"error": "logs: no such file or folder"}),
    ):
        run: dict[str, Any] = {
            "run_date": DAYS[number],
            "finished_at": datetime(2026, 6, 2 + number, 2, 30 + number, tzinfo=UTC),
            "seconds": 61.4 + number,
            "decision": decision,
            "model_version": serves,
            "metrics": {"NDCG@5": 0.9, "NDCG@10": value} if value else None,
        }
        append_run(warehouse, run | problems)
    return warehouse


def test_the_status_shows_the_champion_the_last_nights_and_the_disk(recorded: Warehouse) -> None:
    first, second, *lines = shown(recorded, "status").splitlines()
    assert first == f"champion: {version(7)}"
    assert second == "candidate: 20260608-held"
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")
    ]
    assert cells == [
        [str(DAYS[7]), "failed", "", "", "2026-06-09 02:37", "68"],
        [str(DAYS[6]), "held", "NDCG@10 0.1000", version(5), "2026-06-08 02:36", "67"],
        [str(DAYS[5]), "promoted", "NDCG@10 0.2500", version(5), "2026-06-07 02:35", "66"],
    ]
    assert lines[-3:-1] == [
        f"{DAYS[7]} failed: logs: no such file or folder",
        f"{DAYS[6]} held: {HOLDS}",
    ]
    table = sum(size for file, size in files_of(recorded).items() if "/recommendations/" in file)
    disk = lines[-1].removeprefix("disk: ").split(", ")
    assert f"recommendations {decimal(table)}" in disk
    assert "work_dir 8.0 kB" in disk
    assert "interactions 0 bytes" in disk


def test_the_status_shows_as_many_nights_as_are_asked_for(recorded: Warehouse) -> None:
    lines = shown(recorded, "status", "--runs", "1").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("│")] == [str(DAYS[7])]
    assert not any(HOLDS in line for line in lines)


def test_the_status_as_json_has_the_same(recorded: Warehouse) -> None:
    printed = shown(recorded, "status", "--json")
    assert printed.count("\n") == 1
    found = json.loads(printed)
    assert {*found} == {"champion", "champion_fault", "candidate", "runs", "disk"}
    assert (found["champion"], found["candidate"]) == (version(7), "20260608-held")
    assert [(run["run_date"], run["decision"]) for run in found["runs"]] == [
        (str(DAYS[7]), "failed"), (str(DAYS[6]), "held"), (str(DAYS[5]), "promoted"),
    ]  # fmt: skip
    assert (found["runs"][1]["value"], found["runs"][1]["reasons"]) == (0.1, [HOLDS])
    assert found["disk"]["work_dir"] == 8 * 1000


def test_the_status_says_that_the_champion_is_gone(warehouse: Warehouse) -> None:
    (Path(warehouse.root) / "models" / version(7) / "bundle.json").unlink()
    first = shown(warehouse, "status").splitlines()[0]
    assert first.startswith(f"champion: {version(7)}, but ")


def test_the_status_of_an_empty_warehouse_has_no_night(tmp_path: Path) -> None:
    first, disk = shown(Warehouse(str(tmp_path / "nothing")), "status").splitlines()
    assert first == "champion: none yet"
    assert {size.split(" ", 1)[1] for size in disk.removeprefix("disk: ").split(", ")} == {
        "0 bytes"
    }
    assert not (tmp_path / "nothing").exists()


def limits() -> list[str]:
    return [part for name, n in LIMITS.items() for part in ("--set", f"retention.{name}={n}")]


def test_a_dry_run_of_the_housekeeping_says_what_would_go_and_removes_nothing(
    warehouse: Warehouse,
) -> None:
    before = files_of(warehouse)
    *lines, last = shown(warehouse, "clean", "--dry-run", *limits()).splitlines()
    assert lines[0] == f"work folders would be removed: {DAYS[1]}, {DAYS[0]}"
    models = lines[1].removeprefix("models would be removed: ").split(", ")
    assert {*models} == {version(number) for number in (0, 1, 2, 3, 4)}
    partitions = ", ".join(str(day) for day in DAYS[4::-1])
    assert lines[2:] == [f"run dates of recommendations would be removed: {partitions}"]
    assert last.endswith(" would be freed")
    assert files_of(warehouse) == before


def test_the_housekeeping_says_and_does_what_its_dry_run_said(warehouse: Warehouse) -> None:
    planned = shown(warehouse, "clean", "--dry-run", *limits()).splitlines()
    done = shown(warehouse, "clean", *limits()).splitlines()
    assert done[:3] == [line.replace("would be removed", "removed") for line in planned[:3]]
    assert done[-1].endswith(" freed")
    assert "would be" not in "\n".join(done)
    work = {path.name for path in (Path(warehouse.root).parent / "work").iterdir()}
    assert work == {f"run_date={day}" for day in DAYS[2:]}
    models = {path.name for path in (Path(warehouse.root) / "models").iterdir() if path.is_dir()}
    assert models == {version(number) for number in (5, 6, 7)}


def test_the_housekeeping_as_json_has_the_same(warehouse: Warehouse) -> None:
    printed = shown(warehouse, "clean", "--dry-run", "--json", *limits())
    assert printed.count("\n") == 1
    found = json.loads(printed)
    assert {*found} == PRINTED_BY_CLEAN
    assert found["dry_run"] is True
    assert found["work"] == [str(DAYS[1]), str(DAYS[0])]
    assert found["partitions"] == [str(day) for day in DAYS[4::-1]]
    assert found["bytes"] >= 2 * 1000 + 5 * 100


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch) -> list[tuple[date, bool]]:
    """The dates for which a backfill ran a night, and whether it was forced."""
    ran = []

    def run(settings: Settings, day: date, *, force: bool) -> FinishedRun:
        ran.append((day, force))
        gated = Gated("promoted", (), f"new-{day}", Path("new"), f"new-{day}", None)
        return FinishedRun(day, RunResults(StageRecord("gate", "", "", 1.0, gated)))

    monkeypatch.setattr("pipeline.runner.backfill.nightly", run)
    return ran


RANGE = ["--from", str(DAYS[5]), "--to", str(DAYS[7])]


def test_a_backfill_prints_a_line_per_date_and_passes_over_what_is_done(
    recorded: Warehouse, nights: list[tuple[date, bool]]
) -> None:
    assert shown(recorded, "backfill", *RANGE).splitlines() == [
        f"{DAYS[5]}: promoted; {version(5)} serves; done before",
        f"{DAYS[6]}: held; {version(5)} serves; done before",
        f"{DAYS[7]}: promoted; new-{DAYS[7]} serves",
    ]
    assert nights == [(DAYS[7], False)]


def test_a_forced_backfill_does_every_date_again(
    recorded: Warehouse, nights: list[tuple[date, bool]]
) -> None:
    lines = shown(recorded, "backfill", *RANGE, "--force").splitlines()
    assert lines == [f"{day}: promoted; new-{day} serves" for day in DAYS[5:]]
    assert nights == [(day, True) for day in DAYS[5:]]


def test_a_backfill_as_json_is_one_object(
    recorded: Warehouse, nights: list[tuple[date, bool]]
) -> None:
    printed = shown(recorded, "backfill", *RANGE, "--json")
    assert printed.count("\n") == 1
    dates = json.loads(printed)["dates"]
    assert [(each["run_date"], each["done_before"]) for each in dates] == [
        (str(DAYS[5]), True), (str(DAYS[6]), True), (str(DAYS[7]), False),
    ]  # fmt: skip
    assert dates[2]["model_version"] == f"new-{DAYS[7]}"


def test_a_backfill_that_fails_has_said_what_is_done_and_names_the_date(
    recorded: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: Settings, day: date, *, force: bool) -> None:
        raise StorageError("the disk is full", "warehouse")

    monkeypatch.setattr("pipeline.runner.backfill.nightly", fail)
    options = ["--set", f"warehouse={recorded.root}"]
    done = CliRunner().invoke(app, ["backfill", *RANGE, *options])
    assert done.exit_code == 1
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        str(DAYS[5]), str(DAYS[6]),
    ]  # fmt: skip
    assert done.stderr == f"error: run date {DAYS[7]}: warehouse: the disk is full\n"
