"""Runs after the champion was changed by hand, or after a run was held."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from pipeline.bundles.promotion import promote, roll_back
from pipeline.bundles.registry import CHAMPION, RegisteredModel, register_champion
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import EvaluateSettings, LogSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConflictError
from pipeline.results import Check, Checked, Gated, Scored
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Export, Gate, Score, Train
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.lookup import recommended_to
from tests.helpers.stages import locations
from tests.pipeline.runner.test_nightly import Stages, put_in

FIRST, SECOND, THIRD = (date(2026, 7, day) for day in (1, 2, 3))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "logs").mkdir()
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "logs" / "a.parquet")
    return Settings(
        warehouse=str(tmp_path / "warehouse"),
        work_dir=tmp_path / "work",
        logs=LogSettings(path=str(tmp_path / "logs")),
        evaluate=EvaluateSettings(topk=(5,)),
        score=ScoreSettings(top_k=5),
    )


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stages = Stages()
    put_in(stages, monkeypatch)
    return stages


def own(night: FinishedRun) -> str:
    return night.results[Export].result.model_version


def redone(night: FinishedRun) -> list[str]:
    return [record.stage for record in night.results.records if not record.reused]


def served(night: FinishedRun) -> str:
    return night.results[Score].result.model_version


def champion(settings: Settings) -> dict[str, Any]:
    return json.loads((Path(settings.warehouse) / "models" / CHAMPION).read_text())


def champions(settings: Settings) -> list[tuple[str, str]]:
    """Version and decision of each run date, newest first."""
    now = champion(settings)
    return [(each["model_version"], each["decision"]) for each in (now, *now["previous"])]


@pytest.mark.usefixtures("stages")
def test_after_a_rollback_the_run_done_again_serves_and_the_next_starts_from_the_earlier_model(
    settings: Settings,
) -> None:
    first, second = nightly(settings, FIRST), nightly(settings, SECOND)
    assert second.results[Train].result.parent == own(first)
    assert served(second) == own(second)

    roll_back(Warehouse(settings.warehouse))

    again = nightly(settings, SECOND)
    assert redone(again) == ["gate", "score", "publish"]
    assert served(again) == own(first)
    assert redone(nightly(settings, SECOND)) == []
    assert champions(settings) == [(own(first), "rolled back"), (own(first), "first")]
    third = nightly(settings, THIRD)
    assert third.results[Train].result.parent == own(first)
    assert champion(settings)["candidate"]["model_version"] == own(third)


@pytest.mark.usefixtures("stages")
def test_another_champion_of_an_earlier_date_redoes_the_next_dates_training(
    settings: Settings,
) -> None:
    first, second = nightly(settings, FIRST), nightly(settings, SECOND)
    other = Path(settings.warehouse) / "models" / "other"
    other.mkdir()
    chosen = RegisteredModel(
        run_date=FIRST, model_version="other", path="other", decision="rolled back"
    )
    register_champion(locations(settings, FIRST), chosen)
    again = nightly(settings, SECOND)
    assert redone(again) == ["train", "evaluate", "export", "gate", "score", "publish"]
    assert again.results[Train].result.parent == "other"
    assert own(again) not in (own(first), own(second))


@pytest.mark.usefixtures("stages")
def test_after_a_held_run_the_next_starts_from_the_champion(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly(settings, FIRST)
    with monkeypatch.context() as patch:
        held = Checked((Check("rows", "held", "no rows"),))
        patch.setattr("pipeline.data.checks.check_data", lambda *_, **__: held)
        second = nightly(settings, SECOND)
    assert second.results.get(Train) is None
    assert served(second) == own(first)
    assert champions(settings) == [(own(first), "held"), (own(first), "first")]
    third = nightly(settings, THIRD)
    assert third.results[Train].result.parent == own(first)


@pytest.mark.usefixtures("stages")
def test_a_model_held_by_the_gate_is_the_candidate_until_a_person_promotes_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly(settings, FIRST)
    with monkeypatch.context() as patch:
        bundle = first.results[Export].result.bundle

        def hold(*given: Any, **options: Any) -> Gated:
            candidate = champion(settings)["candidate"]["model_version"]  # before it is decided
            return Gated("held", ("worse",), bundle.name, bundle, candidate, bundle.name)

        patch.setattr("pipeline.bundles.gate.gate", hold)
        second = nightly(settings, SECOND)
    assert served(second) == own(first)
    assert champion(settings)["candidate"]["model_version"] == own(second)

    promote(Warehouse(settings.warehouse), own(second))

    again = nightly(settings, SECOND)
    assert redone(again) == ["gate", "score", "publish"]
    assert served(again) == own(second)
    assert champions(settings) == [(own(second), "forced"), (own(first), "first")]


@pytest.mark.usefixtures("stages")
def test_a_forced_run_sets_a_choice_aside(settings: Settings) -> None:
    first, _ = nightly(settings, FIRST), nightly(settings, SECOND)
    roll_back(Warehouse(settings.warehouse))
    forced = nightly(settings, SECOND, force=True)
    assert champions(settings) == [(own(forced), "promoted"), (own(first), "first")]
    assert redone(nightly(settings, SECOND)) == []
    roll_back(Warehouse(settings.warehouse))
    published = nightly(settings, SECOND, force_publish=True)
    assert served(published) == own(forced)
    assert champions(settings)[0][0] == own(forced)


@pytest.mark.usefixtures("stages")
def test_a_rollback_while_the_run_scores_is_not_undone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly(settings, FIRST)
    second = nightly(settings, SECOND)
    score: Callable[[Score], Scored] = Score.run

    def roll_back_meanwhile(stage: Score) -> Scored:
        roll_back(Warehouse(settings.warehouse))
        return score(stage)

    changed = settings.model_copy(update={"score": ScoreSettings(top_k=4)})
    with monkeypatch.context() as patch:
        patch.setattr(Score, "run", roll_back_meanwhile)
        with pytest.raises(ConflictError, match="a person has meanwhile chosen another model"):
            nightly(changed, SECOND)
    assert champions(settings)[0] == (own(first), "rolled back")
    again = nightly(changed, SECOND)
    assert served(again) == own(first)
    assert own(again) == own(second)
    assert again.results[Gate].result.decision == "rolled back"


@pytest.mark.usefixtures("stages")
def test_a_rollback_while_a_later_date_scores_leaves_that_date_its_own_model(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nightly(settings, FIRST), nightly(settings, SECOND)
    score: Callable[[Score], Scored] = Score.run

    def roll_back_meanwhile(stage: Score) -> Scored:
        roll_back(Warehouse(settings.warehouse))
        return score(stage)

    with monkeypatch.context() as patch:
        patch.setattr(Score, "run", roll_back_meanwhile)
        third = nightly(settings, THIRD)
    assert third.results[Train].result.parent == own(second)  # the champion that it started from
    assert served(third) == own(third)
    assert champions(settings) == [
        (own(third), "promoted"), (own(first), "rolled back"), (own(first), "first"),
    ]  # fmt: skip
    again = nightly(settings, THIRD)
    assert again.results[Train].result.parent == own(first)


@pytest.mark.slow
def test_real_models_are_rolled_back_and_published_again_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    user, step = np.divmod(np.arange(20 * 6), 6)
    end = datetime(2026, 6, 30, 12, tzinfo=UTC)
    log = {
        "user_id": user,
        "item_id": (user * 3 + step) % 10,
        "timestamp": [end - timedelta(hours=int(6 - s)) for s in step],
    }
    Path("logs").mkdir()
    pq.write_table(pa.table(log), "logs/a.parquet")
    Path("fearec.toml").write_text(
        "[model]\nhidden_size = 4\ninner_size = 4\nn_layers = 1\nn_heads = 1\ncontrast = 'none'\n"
        "MAX_ITEM_LIST_LENGTH = 4\n[evaluate]\ntopk = [3]\nbootstrap = 0\n[score]\ntop_k = 3\n"
        "[train]\nepochs = 1\nrefit = false\n[export]\nmax_near_ties = 1.0\n"
    )

    def run(*arguments: Any) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert (done.exit_code, done.stderr.count("error")) == (0, 0), done.stderr
        return done.stdout

    def served_on(day: date) -> str:
        return recommended_to(Warehouse("warehouse"), [7], day)[0].model_version

    run("nightly", "--date", FIRST)
    run("nightly", "--date", SECOND)
    first, second = served_on(FIRST), served_on(SECOND)
    assert first != second
    # Aliases in MLflow move with the champion, not with the night that follows.
    server = ["--set", "registry.mlflow_tracking_uri=http://127.0.0.1:1"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        patch.setattr("pipeline.runner.nightly.nightly", lambda *_: 1 / 0)
        failed = CliRunner().invoke(app, ["models", "rollback", "--republish", *server])
    assert isinstance(failed.exception, ZeroDivisionError)
    assert f"champion: {first} (rolled back)" in failed.stdout
    assert any("MLflow goes by the champion before" in each for each in caplog.messages)
    run("models", "promote", second)
    shown = run("models", "rollback", "--republish")
    assert f"champion: {first} (rolled back), in place of {second}" in shown
    assert served_on(SECOND) == first
    run("nightly", "--date", THIRD)
    assert f"parent: {first}" in run("models", "show", served_on(THIRD))
