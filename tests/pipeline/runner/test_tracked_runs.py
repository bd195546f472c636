"""What a finished run becomes in MLflow, by a stand-in for its client."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.bundles.promotion import roll_back
from pipeline.config.registry_section import RegistrySettings
from pipeline.config.settings import Settings
from pipeline.results import Gated
from pipeline.runner.model_tracking import track_champion
from pipeline.runner.nightly import nightly
from pipeline.runner.stages import Export
from pipeline.storage.locations import Warehouse
from tests.helpers.tracking_server import TrackingClient, TrackingServer
from tests.pipeline.runner.test_chosen_models import FIRST, SECOND, own, settings, stages
from tests.pipeline.runner.test_nightly import NAMES

__all__ = ["settings", "stages"]  # fixtures

NAME = "shop"

pytestmark = pytest.mark.usefixtures("stages")


@pytest.fixture
def server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[TrackingServer]:
    """An MLflow server; whatever fails there fails the test."""
    server = TrackingServer("http://127.0.0.1:1")
    stand_in: Any = type(sys)("mlflow")
    stand_in.MlflowClient = server.client
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        yield server
    warnings = [record.getMessage() for record in caplog.get_records("call")]
    assert not [each for each in warnings if "MLflow" in each]


@pytest.fixture
def tracked(settings: Settings, server: TrackingServer) -> Settings:
    registry = RegistrySettings(mlflow_tracking_uri=server.uri, mlflow_name=NAME)
    return settings.model_copy(update={"registry": registry})


def called(server: TrackingServer, alias: str) -> str:
    return server.called(NAME, alias).tags["fearec.model_version"]


def test_a_finished_run_becomes_one_of_the_experiment(
    tracked: Settings, server: TrackingServer
) -> None:
    night = nightly(tracked, FIRST)
    (run,) = server.runs
    assert (run.experiment, run.name, run.status) == (NAME, f"{FIRST} first", "FINISHED")
    assert run.tags["run_date"] == str(FIRST)
    assert run.tags["decision"] == "first"
    assert run.tags["fearec.model_version"] == own(night)
    assert {
        name: value for name, value in run.metrics.items() if not name.startswith("seconds/")
    } == {
        "model/HR_at_5": 0.5, "model/NDCG_at_10": 0.3,
        "popularity/NDCG_at_10": 0.1, "co_occurrence/NDCG_at_10": 0.2,
    }  # fmt: skip
    seconds = {record.stage: record.seconds for record in night.results.records}
    assert [*seconds] == NAMES
    assert {name: run.metrics[f"seconds/{name}"] for name in NAMES} == seconds
    assert run.params["model.n_items"] == "41"
    assert run.params["model.MAX_ITEM_LIST_LENGTH"] == "5"


def test_its_bundle_becomes_a_version_of_the_registered_model(
    tracked: Settings, server: TrackingServer
) -> None:
    night = nightly(tracked, FIRST)
    (version,) = server.models[NAME]
    assert version.tags == {"fearec.model_version": own(night)}
    assert version.source == f"{server.uri}/{version.run_id}/bundle"
    bundle = night.results[Export].result.bundle
    assert server.runs[int(version.run_id)].artifacts == {
        "bundle": {file.name for file in bundle.iterdir()}
    }


def test_a_run_that_is_done_again_is_logged_once(tracked: Settings, server: TrackingServer) -> None:
    nightly(tracked, FIRST)
    nightly(tracked, FIRST)
    assert len(server.runs) == len(server.models[NAME]) == 1


def test_a_run_that_was_not_logged_whole_is_logged_again(
    tracked: Settings,
    server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*given: Any) -> None:
        raise OSError("the store of artifacts is away")

    with monkeypatch.context() as patch:
        patch.setattr(TrackingClient, "log_artifacts", fail)
        nightly(tracked, FIRST)
    assert "MLflow has no record of this run: the store of artifacts is away" in caplog.messages
    caplog.clear()
    assert server.aliases == {}
    night = nightly(tracked, FIRST)
    assert [run.status for run in server.runs] == ["RUNNING", "FINISHED"]
    assert called(server, "champion") == own(night)


def test_the_aliases_move_as_in_the_registry(
    tracked: Settings, server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly(tracked, FIRST)
    assert called(server, "champion") == called(server, "candidate") == own(first)
    bundle = first.results[Export].result.bundle
    held = Gated("held", ("worse",), bundle.name, bundle, None, bundle.name)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.bundles.gate.gate", lambda *given, **options: held)
        second = nightly(tracked, SECOND)
    assert (called(server, "champion"), called(server, "candidate")) == (own(first), own(second))
    promoted = nightly(tracked, SECOND, force_publish=True)
    assert own(promoted) == own(second)
    assert called(server, "champion") == called(server, "candidate") == own(second)
    roll_back(Warehouse(tracked.warehouse))
    track_champion(tracked.registry, Warehouse(tracked.warehouse))
    assert (called(server, "champion"), called(server, "candidate")) == (own(first), own(second))
    decisions = [run.tags["decision"] for run in server.runs]
    assert decisions[:2] == ["first", "held"]
    assert len(server.models[NAME]) == 2
