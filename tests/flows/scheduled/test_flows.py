"""How the flows end, and what they do beside a whole night: steps, backfills, overlaps."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from flows.scheduled.parameters import BackfillParameters, RunParameters, StageParameters
from pipeline.errors import BusyError, ConfigError, FearecError
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.locks import exclusive_lock
from tests.helpers.tiny_night import (
    log_of,
    read_flow_run,
    task_names,
    write_logs,
    write_settings,
)

DAY = date(2026, 7, 1)
# An infinite loss: training diverges in its first batch.
DIVERGES = ["train.learning_rate=1e30"]


@pytest.fixture(scope="module")
def folder(
    prefect: None,
    shared_traces: None,
    without_reports: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with one whole night, and a server."""
    from flows.scheduled.nightly import nightly

    folder = tmp_path_factory.mktemp("flows")
    write_logs(folder / "logs")
    write_settings(folder)
    assert nightly(night(folder, 0), return_state=True).is_completed()
    return folder


def night(folder: Path, days: int, **given: Any) -> RunParameters:
    config = str(folder / "fearec.toml")
    return RunParameters(config=config, run_date=DAY + timedelta(days=days), **given)


def step(folder: Path, days: int) -> StageParameters:
    return StageParameters(**night(folder, days).model_dump(exclude={"force_publish"}))


def versions(folder: Path, days: int) -> set[str]:
    """The models that recommended on a run date."""
    table = DeltaTable(str(folder / "warehouse/recommendations")).to_pyarrow_table().to_pylist()
    day = DAY + timedelta(days=days)
    return {row["model_version"] for row in table if row["run_date"] == day}


def last_run(folder: Path, days: int) -> dict[str, Any]:
    rows = DeltaTable(str(folder / "warehouse/runs")).to_pyarrow_table().to_pylist()
    of_day = [row for row in rows if row["run_date"] == DAY + timedelta(days=days)]
    return max(of_day, key=lambda row: row["finished_at"])


def test_a_held_night_completes_as_held_and_serves_the_champion(folder: Path) -> None:
    from flows.scheduled.nightly import nightly

    state = nightly(night(folder, 1, overrides=DIVERGES), return_state=True)
    assert state.is_completed()
    assert state.name == "Held"
    assert "diverged" in str(state.message)
    flow_run = read_flow_run(state)
    assert flow_run.name == f"night {DAY + timedelta(days=1)}: held"
    assert "held" in flow_run.tags
    assert versions(folder, 1) == versions(folder, 0)
    assert last_run(folder, 1)["decision"] == "held"
    logged = log_of(state)
    assert "the training diverged" in logged
    assert "Traceback" not in logged


def test_an_overlap_is_skipped_and_no_failure(folder: Path) -> None:
    from flows.scheduled.nightly import nightly

    settings = night(folder, 0).settings()
    locations = RunLocations(Warehouse(settings.warehouse), settings.work_dir, DAY)
    with exclusive_lock(locations.lock, "", locations.folder):
        state = nightly(night(folder, 0), return_state=True)
        with pytest.raises(BusyError, match="another run works on this run date"):
            nightly(night(folder, 0))
    assert state.is_cancelled()
    assert state.name == "Skipped"
    assert "another run works on this run date" in str(state.message)
    assert task_names(state) == []


def test_the_steps_one_by_one_make_a_night(folder: Path) -> None:
    from flows.scheduled.steps import batch_score, ingest, publish, retrain

    early = batch_score(step(folder, 2), return_state=True)
    assert early.is_failed()
    assert "score needs ingest, which is not done" in str(early.message)
    states = [each(step(folder, 2), return_state=True) for each in (ingest, retrain)]
    assert versions(folder, 2) == set()
    states += [each(step(folder, 2), return_state=True) for each in (batch_score, publish)]
    assert [state.type.value for state in states] == ["COMPLETED"] * 4
    done = [task.split()[0] for state in states for task in task_names(state)]
    assert sorted(done) == sorted(
        ["ingest", "prepare", "check", "train", "evaluate", "export", "gate", "score", "publish"]
    )
    assert read_flow_run(states[1]).name.startswith(f"retrain {DAY + timedelta(days=2)}: ")
    run = last_run(folder, 2)
    assert versions(folder, 2) == {run["model_version"]}
    assert run["metrics"]


@pytest.mark.slow
def test_a_backfill_has_a_flow_run_per_date(folder: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    from flows.scheduled.backfill import backfill

    first, last = (DAY + timedelta(days=n) for n in (2, 3))
    parameters = BackfillParameters(config=str(folder / "fearec.toml"), first=first, last=last)
    state = backfill(parameters, return_state=True)
    assert state.is_completed()
    assert state.result() == [first, last]
    assert versions(folder, 3)
    assert read_flow_run(state).name == f"backfill {first} to {last}"
    parent = FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        nights = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    assert len(nights) == 2
    assert all(run.name.startswith("night 2026-07-0") for run in nights)


def test_a_backfill_ends_at_the_date_that_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.scheduled.backfill import backfill
    from pipeline.runner.stages import Prepare

    days = []

    def fail(stage: Prepare) -> None:
        days.append(stage.locations.run_date)
        raise ConfigError("no such thing", "somewhere")

    monkeypatch.setattr(Prepare, "run", fail)
    first = DAY + timedelta(days=10)
    parameters = BackfillParameters(
        config=str(folder / "fearec.toml"), first=first, last=first + timedelta(days=2)
    )
    state = backfill(parameters, return_state=True)
    assert state.is_failed()
    assert state.message == f"stopped at {first}: somewhere: no such thing"
    assert isinstance(state.result(raise_on_failure=False), FearecError)
    assert days == [first]
