"""Which stages of a flow run are tried again, how often, and after what."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.scheduled.parameters import StageParameters
from pipeline.errors import ConfigError, FearecError, InputError, StorageError, TableCheckError
from pipeline.runner.cache import RunResults
from pipeline.runner.stages import STAGES, Ingest
from tests.helpers.tiny_night import EVENTS, USERS, write_logs, write_settings

DAY = date(2026, 7, 1)
TRIED_AGAIN = {"ingest", "prepare", "publish"}
ATTEMPTS = 3

pytestmark = pytest.mark.usefixtures("prefect", "no_delays")


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.scheduled.stage_tasks._RETRY_DELAYS", [0, 0])


@contextmanager
def failing(stage: type[Any], times: int, error: Exception) -> Iterator[list[Exception]]:
    """A stage that works only after so many failures, of which the list has those that came."""
    works, failures = stage.run, []

    def run(given: Any) -> Any:
        if len(failures) == times:
            return works(given)
        failures.append(error)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "run", run)
        yield failures


def ingested(folder: Path) -> Any:
    """The state of a flow run of the step `ingest`."""
    from flows.scheduled.steps import ingest

    write_logs(folder / "logs")
    parameters = StageParameters(config=str(write_settings(folder)), run_date=DAY)
    return ingest(parameters, return_state=True)


def test_a_stage_that_fails_twice_on_a_table_completes_at_its_third_attempt(
    tmp_path: Path,
) -> None:
    with failing(Ingest, 2, OSError("connection reset")) as failures:
        state = ingested(tmp_path)
    assert state.is_completed()
    assert len(failures) == 2
    assert state.result()[Ingest].result.added == USERS * EVENTS
    assert attempts_of(state) == [(f"ingest {DAY}", ATTEMPTS)]


def test_a_stage_that_fails_three_times_fails_its_flow_run(tmp_path: Path) -> None:
    with failing(Ingest, 9, OSError("connection reset")) as failures:
        state = ingested(tmp_path)
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), StorageError)
    assert len(failures) == ATTEMPTS


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    with failing(Ingest, 2, InputError("not readable as Parquet", "a.parquet")) as failures:
        state = ingested(tmp_path)
    assert state.is_failed()
    assert state.message == "a.parquet: not readable as Parquet"
    assert len(failures) == 1
    assert attempts_of(state) == [(f"ingest {DAY}", 1)]


def attempts_of(state: Any) -> list[tuple[str, int]]:
    """The task runs of a flow run, each with the number of its attempts."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return [(task.name, task.run_count) for task in client.read_task_runs(flow_run_filter=run)]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_only_stages_that_read_and_write_tables_are_tried_again(
    stage: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = attempts_at(stage, StorageError("the store is away"), monkeypatch)
    assert attempts == (ATTEMPTS if stage.name in TRIED_AGAIN else 1)


@pytest.mark.parametrize("name", sorted(TRIED_AGAIN))
@pytest.mark.parametrize(
    "error",
    [
        InputError("no such file or folder", "logs"),
        ConfigError("unknown setting", "score.topk"),
        TableCheckError("the recommendations failed their checks"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_lasts_is_not_tried_again_by_any_of_them(
    name: str, error: FearecError, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage,) = (each for each in STAGES if each.name == name)
    assert attempts_at(stage, error, monkeypatch) == 1


def attempts_at(stage: type[Any], error: FearecError, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a flow run attempts a stage that fails each time."""
    from prefect import flow

    from flows.scheduled.stage_tasks import do_stages

    attempts = []

    def fail(stage: type[Any]) -> None:
        attempts.append(stage.name)
        raise error

    run: Any = SimpleNamespace(
        do=fail, results=RunResults(), locations=SimpleNamespace(run_date=DAY)
    )
    monkeypatch.setattr(stage, "is_needed", lambda done: True)
    state = flow(name="one-stage")(lambda: do_stages(run, [stage]))(return_state=True)
    assert state.is_failed()
    assert state.result(raise_on_failure=False) is error
    return len(attempts)
