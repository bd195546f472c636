"""MLflow beside the registry: what a run logs there, and that its failures fail no run."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles.promotion import roll_back
from pipeline.config.registry_section import RegistrySettings
from pipeline.config.settings import Settings
from pipeline.runner.model_tracking import track_champion
from pipeline.runner.nightly import nightly
from pipeline.runner.stages import Export, Publish
from pipeline.storage.locations import Warehouse
from tests.pipeline.runner.test_chosen_models import FIRST, SECOND, own, settings, stages

__all__ = ["settings", "stages"]  # fixtures

pytestmark = pytest.mark.usefixtures("stages")


def tracked(settings: Settings, uri: str) -> Settings:
    return settings.model_copy(update={"registry": RegistrySettings(mlflow_tracking_uri=uri)})


@pytest.mark.parametrize("is_installed", [False, True])
def test_a_run_is_done_where_mlflow_is_missing_or_fails(
    settings: Settings,
    is_installed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(**options: Any) -> None:
        raise RuntimeError("the server is away\nand more")

    stand_in = type(sys)("mlflow")
    stand_in.MlflowClient = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", stand_in if is_installed else None)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        night = nightly(tracked(settings, "http://127.0.0.1:1"), FIRST)
    assert night.results[Publish].result.n_rows
    (message,) = [each for each in caplog.messages if "MLflow" in each]
    assert message.startswith("MLflow has no record of this run: ")
    assert ("the server is away" in message) == is_installed
    assert "\n" not in message


def test_a_champion_is_chosen_where_mlflow_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    registry = RegistrySettings(mlflow_tracking_uri="http://127.0.0.1:1")
    track_champion(registry, Warehouse(settings.warehouse))
    (message,) = caplog.messages
    assert message.startswith("MLflow goes by the champion before: ")


def test_mlflow_is_not_imported_unless_it_is_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    nightly(settings, FIRST)
    assert not any("MLflow" in each for each in caplog.messages)


@pytest.mark.slow
def test_runs_and_models_are_logged_once_and_the_aliases_move(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.chdir(tmp_path)  # the store of artifacts is beside the working directory
    settings = tracked(settings, f"sqlite:///{tmp_path}/mlflow.db")
    uri = settings.registry.mlflow_tracking_uri
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def called(alias: str) -> str:
        return client.get_model_version_by_alias("fearec", alias).tags["fearec.model_version"]

    def runs() -> list[Any]:
        number = client.get_experiment_by_name("fearec").experiment_id
        return client.search_runs([number], order_by=["attributes.start_time"])

    first = nightly(settings, FIRST)
    nightly(settings, FIRST)
    (run,) = runs()
    assert run.data.metrics["model/NDCG_at_10"] == 0.3
    assert run.data.metrics["popularity/NDCG_at_10"] == 0.1
    assert run.data.params["model.n_items"] == "41"
    assert run.data.tags["decision"] == "first"
    assert called("champion") == called("candidate") == own(first)
    version = client.get_model_version_by_alias("fearec", "champion")
    logged = Path(client.download_artifacts(run.info.run_id, "bundle", str(tmp_path)))
    assert version.run_id == run.info.run_id
    bundle = first.results[Export].result.bundle
    assert {file.name for file in logged.iterdir()} == {file.name for file in bundle.iterdir()}

    second = nightly(settings, SECOND)
    assert called("champion") == called("candidate") == own(second)
    roll_back(Warehouse(settings.warehouse))
    track_champion(settings.registry, Warehouse(settings.warehouse))
    assert (called("champion"), called("candidate")) == (own(first), own(second))
    nightly(settings, SECOND)
    assert (called("champion"), called("candidate")) == (own(first), own(second))
    assert [run.data.tags["decision"] for run in runs()] == ["first", "promoted", "rolled back"]
    assert len(client.search_model_versions("name = 'fearec'")) == 2
