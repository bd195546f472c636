"""The wiring of a night, with stages that only say that they were called."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.champion import read_champion
from pipeline.errors import ConfigError, InputError
from pipeline.evaluate import Evaluated
from pipeline.export import Exported
from pipeline.ingest import IngestResult
from pipeline.nightly import STAGES, nightly, run_stage
from pipeline.prepare import Prepared
from pipeline.publish import Published
from pipeline.records import night_folder
from pipeline.score import ScoreResult
from pipeline.settings import LogSettings, Settings
from pipeline.train import Trained
from pipeline.warehouse import models_folder, table_uri

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)
NAMES = [stage.name for stage in STAGES]


class Stages:
    """Stand-ins for every stage; `calls` lists those that ran."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.weights = 0

    def _made(self, settings: Settings, run_date: date, name: str) -> Path:
        self.calls.append(name)
        folder = night_folder(settings, run_date) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _append(self, settings: Settings, name: str) -> DeltaTable:
        uri = table_uri(settings, name)
        write_deltalake(uri, pa.table({"row": [1]}), mode="append")
        return DeltaTable(uri)

    def ingest(self, settings: Settings, run_date: date) -> IngestResult:
        self._made(settings, run_date, "ingest")
        version = self._append(settings, "interactions").version()
        return IngestResult(version, files=1, rows=9, added=7, duplicates=1, quarantined=1)

    def prepare(self, settings: Settings, run_date: date, ingested: IngestResult) -> Prepared:
        folder = self._made(settings, run_date, "prepared")
        event = datetime(2026, 6, 1, tzinfo=UTC)
        return Prepared(folder, ingested.interactions_version, 4, 6, 7, event, event)

    def train(self, settings: Settings, run_date: date, prepared: Prepared) -> Trained:
        folder = self._made(settings, run_date, "train")
        parent = read_champion(settings, before=run_date)
        self.weights += 1
        return Trained(folder, 2, 0.25, parent.name if parent else None, refit=True)

    def evaluate(
        self, settings: Settings, run_date: date, prepared: Prepared, trained: Trained
    ) -> Evaluated:
        self._made(settings, run_date, "evaluate")
        return Evaluated("leave-one-out", 4, {"HR@5": 0.5, "NDCG@10": 0.3}, {"NDCG@10": 0.1})

    def export(
        self,
        settings: Settings,
        run_date: date,
        prepared: Prepared,
        trained: Trained,
        evaluated: Evaluated,
    ) -> Exported:
        self._made(settings, run_date, "export")
        bundle = models_folder(settings) / f"{run_date}-{self.weights}"
        bundle.mkdir(parents=True, exist_ok=True)
        return Exported(bundle, bundle.name, 1e-6, 100, 0)

    def score(
        self, settings: Settings, run_date: date, prepared: Prepared, exported: Exported
    ) -> ScoreResult:
        folder = self._made(settings, run_date, "parts")
        return ScoreResult(
            folder, exported.model_version, "CPUExecutionProvider", n_users=4, n_rows=8,
            n_fallback=1, n_short=0, dropped={}, duplicates=0, unknown_items=0, unknown_listed=0,
            absent_users=0, skipped_files=(), seconds=1.0, users_per_second=4.0,
        )  # fmt: skip

    def publish(self, settings: Settings, run_date: date, scored: ScoreResult) -> Published:
        self._made(settings, run_date, "publish")
        table = self._append(settings, "recommendations")
        return Published(table.table_uri, table.version(), scored.n_rows, scored.n_users)


FUNCTIONS = {
    "ingest": "pipeline.ingest.ingest",
    "prepare": "pipeline.prepare.prepare",
    "train": "pipeline.train.train",
    "evaluate": "pipeline.evaluate.evaluate",
    "export": "pipeline.export.export",
    "score": "pipeline.nightly.score_everyone",
    "publish": "pipeline.nightly.publish",
}
CALLS = ["ingest", "prepared", "train", "evaluate", "export", "parts", "publish"]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stages = Stages()
    for name, target in FUNCTIONS.items():
        monkeypatch.setattr(target, getattr(stages, name))
    return stages


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    logs = tmp_path / "logs"
    logs.mkdir()
    pq.write_table(pa.table({"user_id": [1]}), logs / "a.parquet")
    return Settings(
        warehouse=str(tmp_path / "warehouse"),
        work_dir=tmp_path / "work",
        logs=LogSettings(path=str(logs)),
    )


@pytest.fixture
def ran(settings: Settings, stages: Stages) -> Iterator[Callable[..., list[str]]]:
    """Runs the night again; returns the stages that ran."""

    def run(settings: Settings = settings, day: date = DAY, **options: Any) -> list[str]:
        stages.calls.clear()
        night = nightly(settings, day, **options)
        reused = [record.stage for record in night.stages.values() if record.reused]
        assert list(night.stages) == NAMES
        assert len(stages.calls) + len(reused) == len(NAMES)
        return list(stages.calls)

    return run


def runs_of(settings: Settings) -> list[dict[str, Any]]:
    rows = DeltaTable(table_uri(settings, "runs")).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["run_date"])


def test_every_stage_runs_once_in_order(ran: Callable[..., list[str]]) -> None:
    assert ran() == CALLS
    assert ran() == []


def test_the_next_date_runs_anew(settings: Settings, ran: Callable[..., list[str]]) -> None:
    ran()
    assert ran(day=NEXT) == CALLS
    assert ran() == []
    assert [row["run_date"] for row in runs_of(settings)] == [DAY, NEXT]


def test_force_does_everything_again(ran: Callable[..., list[str]]) -> None:
    ran()
    assert ran(force=True) == CALLS
    assert ran() == []


@pytest.mark.parametrize("killed", range(len(NAMES)))
def test_a_killed_night_goes_on_where_it_stopped(
    killed: int, stages: Stages, monkeypatch: pytest.MonkeyPatch, ran: Callable[..., list[str]]
) -> None:
    class Killed(BaseException):
        pass

    def die(*args: Any) -> None:
        raise Killed

    name = NAMES[killed]
    with monkeypatch.context() as patch:
        # Annotated as the stage is: its record is looked for before it is called.
        die.__annotations__["return"] = getattr(stages, name).__annotations__["return"]
        patch.setattr(FUNCTIONS[name], die)
        with pytest.raises(Killed):
            ran()
    assert stages.calls == CALLS[:killed]
    assert ran() == CALLS[killed:]
    assert ran() == []


def test_a_night_killed_before_its_row_still_gets_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ran: Callable[..., list[str]]
) -> None:
    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.nightly.record_run", die)
        with pytest.raises(KeyboardInterrupt):
            ran()
    assert ran() == []
    assert len(runs_of(settings)) == 1


@pytest.mark.parametrize(
    ("section", "change", "first"),
    [
        ("score", {"top_k": 3}, "parts"),
        ("export", {"parity_sequences": 5000}, "export"),
        ("evaluate", {"topk": (5,)}, "evaluate"),
        ("evaluate", {"mask_seen": False}, "train"),
        ("train", {"learning_rate": 0.01}, "train"),
    ],
)
def test_changed_settings_redo_what_depends_on_them(
    section: str, change: dict[str, Any], first: str,
    settings: Settings, ran: Callable[..., list[str]],
) -> None:  # fmt: skip
    ran()
    changed = settings.model_copy(
        update={section: getattr(settings, section).model_copy(update=change)}
    )
    redone = ran(changed)
    assert redone[0] == first
    assert redone == CALLS[CALLS.index(first) :]


def test_a_new_log_file_redoes_everything(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    pq.write_table(pa.table({"user_id": [2]}), Path(settings.logs.path) / "b.parquet")
    assert ran() == CALLS


def test_log_files_without_news_redo_the_ingest_only(
    settings: Settings, stages: Stages, monkeypatch: pytest.MonkeyPatch,
    ran: Callable[..., list[str]],
) -> None:  # fmt: skip
    ran()

    def ingest(settings: Settings, run_date: date) -> IngestResult:
        stages.calls.append("ingest")
        return IngestResult(0, files=1, rows=0, added=0, duplicates=0, quarantined=0)

    monkeypatch.setattr("pipeline.ingest.ingest", ingest)
    pq.write_table(pa.table({"user_id": [2]}), Path(settings.logs.path) / "b.parquet")
    assert ran() == ["ingest"]


def test_a_changed_deny_file_scores_again(
    settings: Settings, tmp_path: Path, ran: Callable[..., list[str]]
) -> None:
    deny = tmp_path / "deny.txt"
    deny.write_text("a\n")
    with_list = settings.model_copy(
        update={"score": settings.score.model_copy(update={"deny": deny})}
    )
    ran(with_list)
    assert ran(with_list) == []
    deny.write_text("b\n")
    assert ran(with_list) == ["parts", "publish"]


@pytest.mark.parametrize(("gone", "redone"), [("prepared", ["prepared"]), ("parts", ["parts"])])
def test_lost_outputs_are_made_again(
    gone: str, redone: list[str], settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    (night_folder(settings, DAY) / gone).rmdir()
    assert ran() == redone  # they came out the same, so nothing after them has changed


def test_a_lost_warehouse_is_filled_again(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    Path(settings.warehouse).rename(Path(settings.warehouse).with_name("lost"))
    redone = ran()
    assert redone[0] == "ingest"
    assert {"export", "publish"} <= set(redone)
    assert len(runs_of(settings)) == 1
    assert read_champion(settings, before=NEXT) is not None


def test_a_night_does_not_begin_from_itself(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    first = nightly(settings, DAY).stages
    assert first["train"].result.parent is None
    again = nightly(settings, DAY, force=True).stages
    assert again["train"].result.parent is None
    after = nightly(settings, NEXT).stages
    assert after["train"].result.parent == again["export"].result.model_version


def test_the_night_is_one_row_of_runs(settings: Settings, stages: Stages) -> None:
    night = nightly(settings, DAY)
    (row,) = runs_of(settings)
    assert row["run_date"] == DAY
    assert row["decision"] == "published"
    assert row["model_version"] == night.stages["export"].result.model_version
    assert (row["n_users"], row["n_items"], row["n_interactions"]) == (4, 5, 7)
    assert (row["n_added"], row["n_duplicates"], row["n_quarantined"]) == (7, 1, 1)
    assert dict(row["metrics"]) == {"HR@5": 0.5, "NDCG@10": 0.3}
    assert [stage for stage, _ in row["stage_seconds"]] == NAMES
    assert row["seconds"] == pytest.approx(sum(seconds for _, seconds in row["stage_seconds"]))
    version = DeltaTable(table_uri(settings, "runs")).version()
    nightly(settings, DAY)
    assert DeltaTable(table_uri(settings, "runs")).version() == version
    nightly(settings, DAY, force=True)
    assert len(runs_of(settings)) == 1


def test_the_headline_is_ndcg_at_10(settings: Settings, stages: Stages) -> None:
    night = nightly(settings, DAY)
    assert night.headline == ("NDCG@10", 0.3, 0.1)
    evaluated = night.stages["evaluate"]
    at_5 = replace(evaluated.result, model={"HR@5": 1.0, "NDCG@5": 0.2}, popularity={"NDCG@5": 0.1})
    other = replace(night, stages={"evaluate": replace(evaluated, result=at_5)})
    assert other.headline == ("NDCG@5", 0.2, 0.1)


def test_stages_by_hand_are_the_night(settings: Settings, stages: Stages) -> None:
    for name in NAMES:
        assert not run_stage(settings, DAY, name).reused
    night = nightly(settings, DAY)
    assert all(record.reused for record in night.stages.values())


def test_a_stage_wants_those_before_it(settings: Settings, stages: Stages) -> None:
    run_stage(settings, DAY, "ingest")
    with pytest.raises(ConfigError, match=r"fearec prepare --date 2026-07-01") as caught:
        run_stage(settings, DAY, "train")
    assert caught.value.exit_code == 2
    run_stage(settings, DAY, "prepare")
    other = settings.model_copy(update={"time_zone": "Asia/Tokyo"})
    with pytest.raises(ConfigError, match=r"fearec ingest --date 2026-07-01"):
        run_stage(other, DAY, "train")
    assert stages.calls == ["ingest", "prepared"]


def test_a_forced_stage_clears_its_scratch(settings: Settings, stages: Stages) -> None:
    nightly(settings, DAY)
    checkpoint = night_folder(settings, DAY) / "train" / "last.ckpt"
    checkpoint.write_text("stale")
    assert run_stage(settings, DAY, "train").reused
    assert checkpoint.exists()
    assert not run_stage(settings, DAY, "train", force=True).reused
    assert not checkpoint.exists()


def test_missing_logs_are_told_and_write_nothing(settings: Settings, stages: Stages) -> None:
    nowhere = settings.model_copy(update={"logs": LogSettings(path="nowhere")})
    with pytest.raises(InputError, match="nowhere"):
        nightly(nowhere, DAY)
    assert stages.calls == []
    assert not Path(settings.warehouse).exists()
    assert not settings.work_dir.exists()
