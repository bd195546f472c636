"""Runs after the champion was changed by hand, or after a run was held: real models, tiny ones."""

import json
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
from pipeline.config.settings import Settings
from pipeline.errors import ConflictError
from pipeline.results import Check, Checked
from pipeline.runner import stages
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Evaluate, Export, Gate, Publish, Score, Train
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.lookup import recommended_to
from tests.helpers.stages import locations

FIRST, SECOND, THIRD = (date(2026, 7, day) for day in (1, 2, 3))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a log in which twenty users walk round ten items until June 30."""
    user, step = np.divmod(np.arange(20 * 6), 6)
    end = datetime(2026, 6, 30, 12, tzinfo=UTC)
    log = {
        "user_id": user,
        "item_id": (user * 3 + step) % 10,
        "timestamp": [end - timedelta(hours=int(6 - s)) for s in step],
    }
    (tmp_path / "logs").mkdir()
    pq.write_table(pa.table(log), tmp_path / "logs" / "a.parquet")
    small = {"hidden_size": 4, "inner_size": 4, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 4}
    return Settings.model_validate(
        {
            "warehouse": str(tmp_path / "warehouse"),
            "work_dir": tmp_path / "work",
            "logs": {"path": str(tmp_path / "logs")},
            "model": {**small, "n_heads": 1, "contrast": "none"},
            "evaluate": {"topk": [3], "bootstrap": 0},
            "train": {"epochs": 1, "refit": False, "accelerator": "cpu", "logger": "csv"},
            "export": {"max_near_ties": 1.0},
            "score": {"top_k": 3, "provider": "cpu"},
        }
    )


def own(night: FinishedRun) -> str:
    return night.results[Export].result.model_version


def redone(night: FinishedRun) -> list[str]:
    return [record.stage for record in night.results.records if not record.reused]


def served(settings: Settings, day: date) -> str:
    return recommended_to(Warehouse(settings.warehouse), [7], day)[0].model_version


def champion(settings: Settings) -> dict[str, Any]:
    return json.loads((Path(settings.warehouse) / "models" / CHAMPION).read_text())


def test_after_a_rollback_the_table_and_the_next_run_come_from_the_earlier_model(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nightly(settings, FIRST), nightly(settings, SECOND)
    assert second.results[Train].result.parent == own(first)
    assert served(settings, SECOND) == own(second)
    file = tmp_path / "fearec.json"
    file.write_text(settings.model_dump_json())
    monkeypatch.setattr("flows.cli.models.load_settings", lambda *_: settings, raising=False)
    monkeypatch.setattr("pipeline.config.settings.load_settings", lambda *_: settings)

    done = CliRunner().invoke(app, ["models", "rollback", "--republish"])

    assert (done.exit_code, done.stderr) == (0, "")
    assert f"champion: {own(first)} (rolled back), in place of {own(second)}" in done.stdout
    assert served(settings, SECOND) == own(first)
    again = nightly(settings, SECOND)
    assert redone(again) == []  # nothing was trained; the choice is kept
    assert again.results[Gate].result.decision == "rolled back"
    third = nightly(settings, THIRD)
    assert third.results[Train].result.parent == own(first)
    assert champion(settings)["candidate"]["model_version"] == own(third)

    # Of an earlier date's champion too: what the third run starts from is another model now.
    earlier = RegisteredModel(
        run_date=SECOND, model_version=own(second), path=own(second), decision="forced"
    )
    register_champion(locations(settings, SECOND), earlier, overruled=own(first))
    third = nightly(settings, THIRD)
    assert redone(third)[:2] == ["train", "evaluate"]
    assert third.results[Train].result.parent == own(second)
    forced = nightly(settings, SECOND, force=True)  # it decides afresh
    assert forced.results[Gate].result.decision == "promoted"
    assert [each["decision"] for each in (champion(settings), *champion(settings)["previous"])] == [
        "promoted", "promoted", "first",
    ]  # fmt: skip


def test_a_held_run_leaves_its_model_aside(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly(settings, FIRST)
    with monkeypatch.context() as patch:
        held = Checked((Check("rows", "held", "no rows"),))
        patch.setattr("pipeline.data.checks.check_data", lambda *_: held)
        second = nightly(settings, SECOND)
    assert second.results.get(Train) is None
    assert second.results[Gate].result.decision == "held"
    assert served(settings, SECOND) == own(first)
    assert champion(settings)["model_version"] == own(first)
    third = nightly(settings, THIRD)
    assert third.results[Train].result.parent == own(first)


def test_a_model_held_by_the_gate_is_the_candidate_until_a_person_promotes_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly(settings, FIRST)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.bundles.gate.gate", held_by_the_gate)
        second = nightly(settings, SECOND)
    assert served(settings, SECOND) == own(first)
    assert champion(settings)["candidate"]["model_version"] == own(second)

    promote(Warehouse(settings.warehouse), own(second))
    again = nightly(settings, SECOND)

    assert redone(again) == ["gate", "score", "publish"]
    assert again.results[Gate].result.decision == "forced"
    assert served(settings, SECOND) == own(second)


def held_by_the_gate(*given: Any, **options: Any) -> Any:
    from pipeline.results import Gated

    exported, champion = given[2], given[5]
    assert champion is not None
    bundle = exported.bundle.with_name(champion.path)
    version = exported.model_version
    return Gated("held", ("worse",), champion.model_version, bundle, version, version)


def test_a_rollback_while_the_run_scores_is_not_undone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nightly(settings, FIRST), nightly(settings, SECOND)
    score: Callable[[Any], Any] = Score.run

    def roll_back_meanwhile(stage: Any) -> Any:
        roll_back(Warehouse(settings.warehouse))
        return score(stage)

    with monkeypatch.context() as patch:
        patch.setattr(stages.Score, "run", roll_back_meanwhile)
        changed = settings.model_copy(update={"score": settings.score.model_copy(update={"top_k": 2})})
        with pytest.raises(ConflictError, match="a person has meanwhile chosen another model"):
            nightly(changed, SECOND)
    assert champion(settings)["model_version"] == own(first)
    again = nightly(changed, SECOND)
    assert served(settings, SECOND) == own(first)
    assert again.results.get(Evaluate) is not None
    assert again.results[Publish].result.n_users == 20
    assert own(again) == own(second)
