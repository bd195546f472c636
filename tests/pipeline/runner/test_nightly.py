"""The wiring of a night, with stages that only say that they were called."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.bundles import sessions
from pipeline.bundles.bundle import WEIGHTS
from pipeline.bundles.description import DESCRIPTION
from pipeline.bundles.gate import gate as decide
from pipeline.bundles.sessions import Provider
from pipeline.config.export_section import ExportSettings
from pipeline.config.retention_section import RetentionSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import EvaluateSettings, LogSettings
from pipeline.config.settings import Settings
from pipeline.errors import (
    BusyError,
    ConfigError,
    DivergenceError,
    EmptyTestError,
    FearecError,
    GateError,
    InputError,
    MemoryShortError,
    ResumeError,
    StorageError,
    TableCheckError,
)
from pipeline.results import (
    Check,
    Checked,
    Evaluated,
    Exported,
    Gated,
    Ingested,
    PairedDifference,
    Prepared,
    Published,
    Scored,
    Trained,
)
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.nightly import evaluate_bundle_of, nightly, run_stage
from pipeline.runner.stages import (
    STAGES,
    CheckData,
    Export,
    Gate,
    Ingest,
    Prepare,
    Publish,
    Score,
    Train,
)
from pipeline.schema import ITEMS_FILE, TIME
from pipeline.scoring.manifest import MANIFEST, Manifest, ResumeKey
from pipeline.storage.content_hash import content_hash
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.prepared_folder import prepared_hash
from pipeline.warehouse.runs import current_run
from pipeline.warehouse.tables import has_table, open_table, table_id
from tests.conftest import describe
from tests.helpers.prepared_folders import write_histories
from tests.helpers.report_cases import evaluated
from tests.helpers.scoring_cases import write_pairs
from tests.helpers.stages import locations, read_champion, table_uri

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)
NAMES = [stage.name for stage in STAGES]


class Stages:
    """Stand-ins for every stage; `calls` lists those that ran."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.weights = 0
        self.seen = [[1, 2, 3]]

    def _made(self, run: RunLocations, name: str) -> Path:
        self.calls.append(name)
        folder = run.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _append(self, run: RunLocations, name: str) -> DeltaTable:
        uri = run.warehouse.table(name)
        write_deltalake(uri, pa.table({"rank": [1]}), mode="append")
        return DeltaTable(uri)

    def ingest(self, files: Any, logs: Any, run: RunLocations, *given: Any) -> Ingested:
        self._made(run, "ingest")
        table = self._append(run, "interactions")
        return Ingested(
            table_id(table), table.version(), files=1, rows=9, added=7, duplicates=1, quarantined=1,
            withdrawn=0,
        )  # fmt: skip

    def prepare(
        self,
        ingested: Ingested,
        limits: Any,
        run: RunLocations,
        time_zone: str,
        earlier: Any,
        event_types: bool,
        engine: Any,
    ) -> Prepared:
        folder = self._made(run, "prepared")
        pq.write_table(
            pa.table(
                {
                    "item_index": pa.array(range(1, 6), pa.int32()),
                    "item_id": list("abcde"),
                    "popularity": [1] * 5,
                    "last_seen": pa.array([datetime(2026, 6, 1, tzinfo=UTC)] * 5, TIME),
                }
            ),
            folder / ITEMS_FILE,
        )
        seen = pa.array(self.seen, pa.list_(pa.int32()))
        write_histories(folder, pa.table({"user_id": range(len(seen)), "item_index": seen}))
        event = datetime(2026, 6, 1, tzinfo=UTC)
        vocabulary = open_table(run.warehouse.table("vocabulary"))
        vocabulary = vocabulary or self._append(run, "vocabulary")
        return Prepared(
            folder, prepared_hash(folder), ingested.interactions_version, table_id(vocabulary),
            4, 6, 7, event, event,
        )  # fmt: skip

    def check(self, *given: Any) -> Checked:
        self.calls.append("check")
        return Checked()

    def train(self, *given: Any, **options: Any) -> Trained:
        champion, run = given[-2:]
        self.weights += 1
        parent = champion and champion.model_version
        folder = self._made(run, "train") / "key"
        folder.mkdir(exist_ok=True)
        (folder / WEIGHTS).write_text("weights")
        hashes = {WEIGHTS: content_hash(folder / WEIGHTS)}
        return Trained(folder, 2, 0.25, parent, refit=True, content_hashes=hashes)

    def evaluate(self, prepared: Prepared, *given: Any, **options: Any) -> Evaluated:
        self.calls.append("evaluate")
        return Evaluated(
            "leave-one-out", 4, 3, {"HR@5": 0.5, "NDCG@10": 0.3}, {"NDCG@10": 0.1},
            {"NDCG@10": 0.2}, {"model": {"NDCG@10": (0.25, 0.35)}, "popularity": {}},
        )  # fmt: skip

    def export(self, *given: Any) -> Exported:
        (run,) = (each for each in given if isinstance(each, RunLocations))
        self._made(run, "export")
        bundle = run.local_models / f"{run.run_date}-{self.weights}"
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / DESCRIPTION).write_text(describe(bundle.name).model_dump_json())
        return Exported(bundle, bundle.name, 1e-6, 100, 0)

    def gate(self, *given: Any, **options: Any) -> Gated:
        self.calls.append("gate")
        return decide(*given, **options)

    def score(self, stage: Score) -> Scored:
        folder = self._made(stage.locations, "parts")
        key = ResumeKey(model_version="v1", bundle={}, inputs={}, settings={})
        now = datetime(2026, 6, 1, tzinfo=UTC)
        manifest = Manifest(resume_key=key, generated_at=now, parts={}, complete=True)
        (folder / MANIFEST).write_text(manifest.to_json())
        return Scored(
            str(folder), stage.gated.result.model_version, "CPUExecutionProvider",
            precision="fp32", devices=1, n_users=4, n_rows=8, n_fallback=1, n_short=0, dropped={},
            duplicates=0, unknown_items=0, unknown_listed=0, absent_users=0, skipped_files=(),
            seconds=1.0, users_per_second=4.0,
        )  # fmt: skip

    def check_tables(self, *given: Any, overrule: bool) -> tuple[Check, ...]:
        return ()

    def publish(self, scored: Scored, run: RunLocations) -> Published:
        self._made(run, "publish")
        table = self._append(run, "recommendations")
        return Published(
            table.table_uri, table_id(table), table.version(), scored.n_rows, scored.n_users
        )

    def is_published(self, published: Published, scored: Scored, run: RunLocations) -> bool:
        return has_table(published.table, published.table_id, published.version)


FUNCTIONS = {
    "ingest": "pipeline.data.ingest.ingest",
    "prepare": "pipeline.data.prepare.prepare",
    "check": "pipeline.data.checks.check_data",
    "train": "pipeline.training.train.train",
    "evaluate": "pipeline.evaluation.evaluate.evaluate",
    "export": "pipeline.training.export.export",
    "gate": "pipeline.bundles.gate.gate",
    "score": "pipeline.runner.stages.Score.run",
    "check_tables": "pipeline.publishing.checks.check_tables",
    "publish": "pipeline.publishing.publish.publish",
    "is_published": "pipeline.publishing.publish.is_published",
}
CALLS = [
    "ingest", "prepared", "check", "train", "evaluate", "export", "gate", "parts", "publish",
]  # fmt: skip


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stages = Stages()
    put_in(stages, monkeypatch)
    return stages


def put_in(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-ins do what the stages would."""
    for name, target in FUNCTIONS.items():
        stand_in = getattr(stages, name)
        monkeypatch.setattr(target, lambda *given, _do=stand_in, **options: _do(*given, **options))
    # Seconds of drawing; `tests/pipeline/reporting` has its tests.
    for name in ("page_of_run", "index_of_run", "write_report"):
        monkeypatch.setattr(f"pipeline.runner.nightly.{name}", lambda *given: None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    logs = tmp_path / "logs"
    logs.mkdir()
    pq.write_table(pa.table({"user_id": [1]}), logs / "a.parquet")
    return Settings(
        warehouse=str(tmp_path / "warehouse"),
        work_dir=tmp_path / "work",
        logs=LogSettings(path=str(logs)),
        evaluate=EvaluateSettings(topk=(3, 5)),
        score=ScoreSettings(top_k=5),
    )


@pytest.fixture
def ran(settings: Settings, stages: Stages) -> Iterator[Callable[..., list[str]]]:
    """Runs the night again; returns the stages that ran."""

    def run(settings: Settings = settings, day: date = DAY, **options: Any) -> list[str]:
        stages.calls.clear()
        night = nightly(settings, day, **options)
        records = night.results.records
        reused = [record.stage for record in records if record.reused]
        assert [record.stage for record in records] == NAMES
        assert len(stages.calls) + len(reused) == len(NAMES)
        return list(stages.calls)

    return run


def runs_of(settings: Settings) -> list[dict[str, Any]]:
    """All rows, in the order of their end."""
    rows = DeltaTable(table_uri(settings, "runs")).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["finished_at"])


def test_every_stage_runs_once_in_order(
    ran: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    assert ran() == CALLS
    assert ran() == []
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_the_next_date_runs_anew(settings: Settings, ran: Callable[..., list[str]]) -> None:
    ran()
    assert ran(day=NEXT) == CALLS
    assert ran() == []
    assert [row["run_date"] for row in runs_of(settings)] == [DAY, NEXT]


def test_force_does_everything_again(ran: Callable[..., list[str]]) -> None:
    ran()
    assert ran(force=True) == CALLS
    assert ran() == []


def test_rows_that_are_no_longer_its_own_are_published_again(
    ran: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran()
    monkeypatch.setattr(FUNCTIONS["is_published"], lambda *given: False)
    assert ran() == ["publish"]


@pytest.mark.parametrize("killed", range(len(NAMES)))
def test_a_killed_night_goes_on_where_it_stopped(
    killed: int, stages: Stages, monkeypatch: pytest.MonkeyPatch, ran: Callable[..., list[str]]
) -> None:
    class Killed(BaseException):
        pass

    def die(*args: Any, **options: Any) -> None:
        raise Killed

    name = NAMES[killed]
    with monkeypatch.context() as patch:
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
        patch.setattr("pipeline.runner.nightly.record_run", die)
        with pytest.raises(KeyboardInterrupt):
            ran()
    assert ran() == []
    assert len(runs_of(settings)) == 1


def test_a_changed_setting_redoes_what_depends_on_it(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    changed = settings.model_copy(update={"export": ExportSettings(parity_sequences=5000)})
    assert ran(changed) == ["export", "gate"]  # which decides as before: nothing is scored


def test_a_new_log_file_redoes_everything(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    pq.write_table(pa.table({"user_id": [2]}), Path(settings.logs.path) / "b.parquet")
    assert ran() == CALLS


def test_log_files_without_news_redo_the_ingest_and_the_checks_only(
    settings: Settings, stages: Stages, monkeypatch: pytest.MonkeyPatch,
    ran: Callable[..., list[str]],
) -> None:  # fmt: skip
    # The housekeeping makes new versions of tables.
    unswept = settings.model_copy(update={"retention": RetentionSettings(after_runs=False)})
    ran(unswept)

    def ingest(*given: Any) -> Ingested:
        stages.calls.append("ingest")
        table = open_table(table_uri(settings, "interactions"))
        return Ingested(table_id(table), table.version(), 1, 0, 0, 0, 0, 0)

    monkeypatch.setattr("pipeline.data.ingest.ingest", ingest)
    pq.write_table(pa.table({"user_id": [2]}), Path(settings.logs.path) / "b.parquet")
    assert ran(unswept) == ["ingest", "check"]


@pytest.mark.parametrize(("gone", "redone"), [("prepared", ["prepared"]), ("parts", ["parts"])])
def test_lost_outputs_are_made_again(
    gone: str, redone: list[str], settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    shutil.rmtree(locations(settings, DAY).folder / gone)
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


def test_a_warehouse_made_anew_from_other_logs_is_not_the_old_one(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    ran()
    Path(settings.warehouse).rename(Path(settings.warehouse).with_name("lost"))
    (Path(settings.logs.path) / "a.parquet").unlink()
    pq.write_table(pa.table({"user_id": [2]}), Path(settings.logs.path) / "b.parquet")
    assert ran() == CALLS


def test_a_lost_vocabulary_is_made_again(settings: Settings, ran: Callable[..., list[str]]) -> None:
    ran()
    vocabulary = Path(settings.warehouse) / "vocabulary"
    vocabulary.rename(vocabulary.with_name("lost"))
    assert ran() == CALLS[1:]


def test_another_layout_is_refused_before_anything_is_done(
    settings: Settings, stages: Stages, ran: Callable[..., list[str]]
) -> None:
    ran()
    stages.calls.clear()
    lists = settings.model_copy(update={"score": ScoreSettings(layout="list")})
    with pytest.raises(ConfigError, match=r"score\.layout"):
        nightly(lists, NEXT, force=True)
    assert stages.calls == []


@pytest.mark.parametrize(
    ("score", "kind", "message"),
    [
        ({"top_k": 6}, ConfigError, r"score\.top_k: .* expected at most 5; found 6"),
        ({"deny": "nofile"}, InputError, "nofile: cannot be read"),
        ({"allow": "nofile"}, InputError, "nofile: cannot be read"),
        ({"allow": os.devnull}, ConfigError, "no item is left to recommend"),
        ({"where": "price > 3"}, ConfigError, r"score\.where: unknown column price; there are"),
        ({"where": "popularity < 0"}, ConfigError, "score.where: no item is left to recommend"),
        ({"provider": "cuda"}, ConfigError, r"provider does not work here.*no CUDA device"),
        ({"provider": "tensorrt"}, ConfigError, "provider does not work here"),
        ({"precision": "fp16"}, ConfigError, "no recommender in float16"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_training(
    score: dict[str, Any], kind: type[Exception], message: str, settings: Settings, stages: Stages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.bundles.sessions._count_cuda_devices", lambda: 0)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    unscorable = settings.model_copy(update={"score": ScoreSettings(**{"top_k": 5, **score})})
    with pytest.raises(kind, match=message):
        nightly(unscorable, DAY)
    assert stages.calls == ["ingest", "prepared", "check"]
    assert run_stage(unscorable, DAY, Train).result.refit  # by itself it asks for no scores


def test_candidates_need_no_recommender_in_float16(
    settings: Settings, tmp_path: Path, ran: Callable[..., list[str]]
) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [(user, "a") for user in range(4)])
    among = ScoreSettings(top_k=5, precision="fp16", candidates=pairs, exclude_seen=False)
    assert ran(settings.model_copy(update={"score": among})) == CALLS


@pytest.mark.skipif(sessions._count_cuda_devices() > 0, reason="the provider works here")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_there_but_cannot_run_is_refused_before_the_training(
    provider: Provider, settings: Settings, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A driver without CUDA's other libraries, as far as can be seen without opening a session.
    monkeypatch.setattr(sessions, "_count_cuda_devices", lambda: 1)
    without = settings.model_copy(update={"score": ScoreSettings(top_k=5, provider=provider)})
    with pytest.raises(ConfigError, match="provider does not work here") as refusal:
        nightly(without, DAY)
    assert len(str(refusal.value).splitlines()) == 1
    assert stages.calls == ["ingest", "prepared", "check"]


def test_a_provider_that_runs_the_smallest_graph_is_accepted_before_the_training(
    settings: Settings, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_count_cuda_devices", lambda: 1)
    monkeypatch.setitem(sessions.NAMES, "cuda", sessions.CPU)  # so the graph really runs
    with_it = settings.model_copy(update={"score": ScoreSettings(top_k=5, provider="cuda")})
    nightly(with_it, DAY)
    assert "train" in stages.calls


def test_users_who_have_seen_everything_are_refused_before_the_training(
    settings: Settings, stages: Stages
) -> None:
    stages.seen = [[1, 2, 3, 4, 5, 5], [5, 4, 3, 2, 1]]
    with pytest.raises(ConfigError, match="every user has seen every eligible item"):
        nightly(settings, DAY)
    assert stages.calls == ["ingest", "prepared", "check"]
    again = {"exclude_seen": False, "top_k": 5}
    nightly(settings.model_copy(update={"score": ScoreSettings(**again)}), DAY)
    stages.seen = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 2]]
    nightly(settings, DAY, force=True)


def test_two_at_once_on_one_date_are_refused(
    settings: Settings, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[BusyError] = []

    def another_comes(*given: Any) -> Ingested:
        for run in (nightly, partial(run_stage, stage=Ingest)):
            with pytest.raises(BusyError, match="another run works on this run date") as caught:
                run(settings, DAY)
            refusals.append(caught.value)
        return stages.ingest(*given)

    monkeypatch.setattr("pipeline.data.ingest.ingest", another_comes)
    nightly(settings, DAY)
    assert len(refusals) == 2
    assert stages.calls == CALLS
    assert nightly(settings, DAY).results[Ingest].reused


def test_a_killed_night_frees_its_lock(settings: Settings, ran: Callable[..., list[str]]) -> None:
    code = (
        "import os, sys; from datetime import date; from pathlib import Path\n"
        "from pipeline.runner import nightly; from pipeline.config.settings import Settings\n"
        "given = Settings(work_dir=Path(sys.argv[1]), logs={'path': sys.argv[2]})\n"
        "with nightly._locked(given, date(2026, 7, 1)): os._exit(9)"
    )
    arguments = [sys.executable, "-c", code, str(settings.work_dir), settings.logs.path]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert (locations(settings, DAY).folder / ".lock").exists()
    assert ran() == CALLS


@pytest.mark.parametrize(
    "place", ["pipeline.data.prepare.prepare", "pipeline.runner.nightly.record_run"]
)
def test_a_full_disk_is_told_in_one_line(
    place: str, monkeypatch: pytest.MonkeyPatch, ran: Callable[..., list[str]]
) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/disk/full")

    def full(*args: Any, **options: Any) -> Prepared:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(StorageError, match="/disk/full"):
            ran()
    assert ran() == ([] if "record_run" in place else CALLS[1:])


def test_want_of_memory_is_not_blamed_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, ran: Callable[..., list[str]]
) -> None:
    def short(*args: Any, **options: Any) -> Prepared:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.prepare.prepare", short)
        with pytest.raises(MemoryShortError, match="not enough memory"):
            ran()
    assert ran() == CALLS[1:]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_work_dir_that_is_read_only_is_told(settings: Settings, stages: Stages) -> None:
    settings.work_dir.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        nightly(settings, DAY)


def test_a_work_dir_that_is_a_file_is_told(settings: Settings, stages: Stages) -> None:
    settings.work_dir.write_text("")
    with pytest.raises(StorageError, match=str(settings.work_dir)):
        nightly(settings, DAY)


def test_only_parts_of_another_run_are_scored_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = datetime(2026, 6, 1, tzinfo=UTC)
    done = RunResults(
        StageRecord("prepare", "", "", 0.0, Prepared(Path("p"), "", 1, "", 4, 6, 7, event, event)),
        StageRecord("gate", "", "", 0.0, Gated("first", (), "v1", Path("bundle"), "v1", None)),
    )
    stage = Score.of(settings, locations(settings, DAY), done)
    folder = locations(settings, DAY).parts
    opened = SimpleNamespace(description=SimpleNamespace(input_types=()))
    monkeypatch.setattr("pipeline.runner.stages.table_stages.Bundle.load", lambda path: opened)

    def resumes_to(error: Exception) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def score(*args: Any, progress: Any, resume: bool = False, **options: Any) -> None:
            calls.append({"resume": resume, "parts": folder.exists()})
            if resume:
                raise error

        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr("pipeline.runner.stages.table_stages.score_histories", score)
        stage.run()
        return calls

    with pytest.raises(ConfigError, match="top_k"):
        resumes_to(ConfigError("too many", "score.top_k"))
    assert folder.exists()
    assert resumes_to(ResumeError("another model")) == [
        {"resume": True, "parts": True},
        {"resume": False, "parts": False},
    ]


def test_a_night_does_not_begin_from_itself(
    settings: Settings, ran: Callable[..., list[str]]
) -> None:
    first = nightly(settings, DAY).results
    assert first[Train].result.parent is None
    again = nightly(settings, DAY, force=True).results
    assert again[Train].result.parent is None
    after = nightly(settings, NEXT).results
    assert after[Train].result.parent == again[Export].result.model_version


def test_the_night_is_one_row_of_runs(settings: Settings, stages: Stages) -> None:
    night = nightly(settings, DAY)
    (row,) = runs_of(settings)
    assert row["run_date"] == DAY
    assert (row["decision"], row["reasons"], row["error"]) == ("first", [], None)
    assert (row["candidate"], row["champion"]) == (row["model_version"], None)
    assert row["model_version"] == night.results[Export].result.model_version
    assert (row["n_users"], row["n_items"], row["n_interactions"]) == (4, 5, 7)
    assert (row["n_added"], row["n_duplicates"], row["n_quarantined"]) == (7, 1, 1)
    assert dict(row["metrics"]) == {"HR@5": 0.5, "NDCG@10": 0.3}
    assert dict(row["metrics_low"]) == {"NDCG@10": 0.25}
    assert dict(row["metrics_high"]) == {"NDCG@10": 0.35}
    assert dict(row["popularity_metrics"]) == {"NDCG@10": 0.1}
    assert dict(row["co_occurrence_metrics"]) == {"NDCG@10": 0.2}
    assert [stage for stage, _ in row["stage_seconds"]] == NAMES
    assert row["seconds"] == pytest.approx(sum(seconds for _, seconds in row["stage_seconds"]))
    version = DeltaTable(table_uri(settings, "runs")).version()
    nightly(settings, DAY)
    assert DeltaTable(table_uri(settings, "runs")).version() == version
    nightly(settings, DAY, force=True)
    runs = runs_of(settings)
    assert [row["run_date"] for row in runs] == [DAY, DAY]
    newest = current_run(Warehouse(settings.warehouse), DAY)
    assert newest is not None
    assert newest["finished_at"] == runs[-1]["finished_at"]


def test_a_run_writes_the_index_once_after_old_pages_are_gone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page_of_run(settings: Settings, run_date: date) -> str:
        page = Path(settings.warehouse, "reports", str(run_date), "report.html")
        page.parent.mkdir(parents=True)
        page.touch()
        return str(page)

    def index_page(rows: Any, pages: set[date]) -> str:
        linked.append(pages)
        return ""

    linked: list[set[date]] = []
    monkeypatch.setattr("pipeline.runner.nightly.STAGES", ())
    monkeypatch.setattr("pipeline.runner.nightly.page_of_run", page_of_run)
    monkeypatch.setattr("pipeline.reporting.page.index_page", index_page)
    one = settings.model_copy(update={"retention": RetentionSettings(recommendations=1)})
    for day in (DAY, NEXT):
        assert nightly(one, day).report is not None
    assert linked == [{DAY}, {NEXT}]


def test_a_failed_run_has_its_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ran: Callable[..., list[str]]
) -> None:
    def fail(*given: Any, **options: Any) -> Trained:
        raise FearecError("no luck", "train")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.train.train", fail)
        with pytest.raises(FearecError, match="no luck"):
            ran()
    (failed,) = runs_of(settings)
    assert (failed["decision"], failed["error"]) == ("failed", "train: no luck")
    assert [stage for stage, _ in failed["stage_seconds"]] == ["ingest", "prepare", "check"]
    assert (failed["n_users"], failed["metrics"]) == (4, None)
    assert ran() == CALLS[3:]
    assert [row["decision"] for row in runs_of(settings)] == ["failed", "first"]


def test_a_report_of_a_failed_run_that_fails_too_says_nothing(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    stages: Stages,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*given: Any, **options: Any) -> Trained:
        raise FearecError("the disk is full")

    monkeypatch.setattr("pipeline.training.train.train", fail)
    for module in ("pipeline.runner.nightly", "pipeline.reporting.report"):
        monkeypatch.setattr(f"{module}.write_report", fail)
    with pytest.raises(FearecError, match="the disk is full"):
        nightly(settings, DAY)
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert [row["decision"] for row in runs_of(settings)] == ["failed"]


def test_an_unfit_model_leaves_the_champion_in_place(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    def diverge(*given: Any, **options: Any) -> Trained:
        raise DivergenceError("the training diverged")

    first = nightly(settings, DAY).results[Gate].result
    after = date(2026, 7, 3)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.train.train", diverge)
        held = nightly(settings, NEXT).results
    assert held[Gate].result.decision == "held"
    assert held[Gate].result.reasons == ("train: the training diverged",)
    assert held[Score].result.model_version == first.model_version
    assert Export not in held
    assert runs_of(settings)[-1]["decision"] == "held"
    assert nightly(settings, after).results[Train].result.parent == first.model_version
    champion = read_champion(settings, before=NEXT)
    assert read_champion(settings, before=after) == champion == first.bundle


def test_an_unfit_model_leaves_the_champion_to_single_stages_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    def diverge(*given: Any, **options: Any) -> Trained:
        raise DivergenceError("the training diverged")

    first = nightly(settings, DAY).results[Gate].result
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.train.train", diverge)
        for stage in STAGES[: STAGES.index(Train)]:
            run_stage(settings, NEXT, stage)
        with pytest.raises(DivergenceError):
            run_stage(settings, NEXT, Train)
    with pytest.raises(GateError, match="trains no model; found train: the training diverged"):
        run_stage(settings, NEXT, Export)
    gated = run_stage(settings, NEXT, Gate).result
    assert (gated.decision, gated.model_version) == ("held", first.model_version)
    assert run_stage(settings, NEXT, Score).result.model_version == first.model_version
    run_stage(settings, NEXT, Publish)
    trained = run_stage(settings, NEXT, Train)  # it is tried again
    assert not trained.reused
    with pytest.raises(ConfigError, match="gate needs evaluate"):
        run_stage(settings, NEXT, Gate)


def test_an_empty_test_leaves_the_champion_in_place(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    def refuse(*given: Any, **options: Any) -> Trained:
        raise EmptyTestError("no user to evaluate")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.train.train", refuse)
        with pytest.raises(EmptyTestError) as caught:  # there is no champion yet
            nightly(settings, DAY)
    assert caught.value.exit_code == 2
    first = nightly(settings, DAY).results[Gate].result
    monkeypatch.setattr("pipeline.training.train.train", refuse)
    held = nightly(settings, NEXT).results[Gate].result
    assert (held.decision, held.model_version) == ("held", first.model_version)
    assert held.reasons == ("train: no user to evaluate",)


def test_a_model_that_the_gate_holds_is_published_by_force_and_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    def worse(*given: Any, **options: Any) -> Evaluated:
        found = measure(*given, **options)
        lost = {"champion": PairedDifference(-0.2, -0.25, -0.15)} if given[-1] else {}
        return replace(found, champion=found.popularity, differences=lost)

    measure = stages.evaluate
    monkeypatch.setattr("pipeline.evaluation.evaluate.evaluate", worse)
    first = nightly(settings, DAY).results[Gate].result
    held = nightly(settings, NEXT).results[Gate].result
    assert (held.decision, held.model_version) == ("held", first.model_version)
    assert "below the champion's" in held.reasons[0]
    forced = nightly(settings, NEXT, force_publish=True).results[Gate].result
    assert (forced.decision, forced.model_version) == ("forced", held.candidate)
    assert forced.reasons == held.reasons
    stages.calls.clear()
    again = nightly(settings, NEXT).results
    assert again[Gate].result == forced
    assert stages.calls == ["check", "gate"]
    assert nightly(settings, date(2026, 7, 3)).results[Gate].result.champion == held.candidate


def test_a_first_run_without_a_fit_model_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    def diverge(*given: Any, **options: Any) -> Trained:
        raise DivergenceError("the training diverged")

    monkeypatch.setattr("pipeline.training.train.train", diverge)
    with pytest.raises(
        GateError, match=r"no champion that could serve instead.*diverged"
    ) as caught:
        nightly(settings, DAY)
    assert caught.value.exit_code == 1
    assert "publish" not in stages.calls
    assert runs_of(settings)[-1]["decision"] == "failed"


def test_held_data_trains_nothing_unless_publishing_is_forced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    def hold(*given: Any) -> Checked:
        return Checked((Check("rows", "held", "no rows", 0.0, 1.0),))

    first = nightly(settings, DAY).results[Gate].result
    monkeypatch.setattr("pipeline.data.checks.check_data", hold)
    stages.calls.clear()
    held = nightly(settings, NEXT).results
    assert stages.calls == ["ingest", "prepared", "gate", "parts", "publish"]
    assert (held[Gate].result.decision, held[Gate].result.reasons) == ("held", ("no rows",))
    assert held[Gate].result.model_version == first.model_version
    with pytest.raises(GateError, match="trains no model; found no rows"):
        run_stage(settings, NEXT, Train)
    forced = nightly(settings, NEXT, force_publish=True).results
    assert forced[Gate].result.decision == "forced"
    assert forced[Gate].result.model_version == forced[Export].result.model_version
    assert [check.outcome for check in forced[CheckData].result.checks] == ["overruled"]
    stages.calls.clear()
    again = nightly(settings, NEXT).results  # without the flag: the person's choice stays
    assert again[Gate].result.decision == "forced"
    assert "parts" not in stages.calls


def test_a_table_of_runs_gets_the_columns_it_lacks(settings: Settings, stages: Stages) -> None:
    nightly(settings, DAY)
    uri = table_uri(settings, "runs")
    rows = DeltaTable(uri).to_pyarrow_table()
    before = rows.drop_columns(["metrics_low", "metrics_high", "co_occurrence_metrics"])
    write_deltalake(uri, before, mode="overwrite", schema_mode="overwrite")
    nightly(settings, NEXT)
    old, new = runs_of(settings)
    assert (old["run_date"], old["co_occurrence_metrics"]) == (DAY, None)
    assert dict(old["metrics"]) == {"HR@5": 0.5, "NDCG@10": 0.3}
    assert dict(new["co_occurrence_metrics"]) == {"NDCG@10": 0.2}


def test_a_bundle_is_measured_on_what_is_prepared_and_not_recorded(
    settings: Settings, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(bundle: Any, prepared: Prepared, *given: Any) -> str:
        measured.append((prepared.n_users, bundle))
        return "figures"

    monkeypatch.setattr("pipeline.evaluation.evaluate_bundle.evaluate_bundle", measure)
    monkeypatch.setattr("pipeline.runner.nightly.opened_bundle", nullcontext)
    with pytest.raises(ConfigError, match=r"evaluate needs ingest.*fearec ingest"):
        evaluate_bundle_of(settings, DAY, Path("champion"))
    run_stage(settings, DAY, Ingest)
    run_stage(settings, DAY, Prepare)
    assert evaluate_bundle_of(settings, DAY, Path("champion")) == "figures"
    assert measured == [(4, Path("champion"))]
    assert not (locations(settings, DAY).folder / "evaluate.json").exists()


def test_the_headline_is_ndcg_at_10_beside_the_better_baseline() -> None:
    assert evaluated().headline == ("NDCG@10", 0.3, "co-occurrence", 0.2)
    at_5 = replace(
        evaluated(),
        model={"HR@5": 1.0, "NDCG@5": 0.2},
        popularity={"NDCG@5": 0.1},
        co_occurrence={"NDCG@5": 0.05},
    )
    assert at_5.headline == ("NDCG@5", 0.2, "popularity", 0.1)


def test_stages_by_hand_are_the_night(settings: Settings, stages: Stages) -> None:
    for stage in STAGES:
        assert not run_stage(settings, DAY, stage).reused
    night = nightly(settings, DAY)
    assert all(record.reused for record in night.results.records)


def test_a_stage_wants_those_before_it(settings: Settings, stages: Stages) -> None:
    run_stage(settings, DAY, Ingest)
    with pytest.raises(ConfigError, match=r"fearec prepare --date 2026-07-01") as caught:
        run_stage(settings, DAY, Train)
    assert caught.value.exit_code == 2
    run_stage(settings, DAY, Prepare)
    other = settings.model_copy(update={"time_zone": "Asia/Tokyo"})
    with pytest.raises(ConfigError, match=r"fearec ingest --date 2026-07-01"):
        run_stage(other, DAY, Train)
    assert stages.calls == ["ingest", "prepared"]


def test_a_forced_stage_clears_its_scratch(settings: Settings, stages: Stages) -> None:
    nightly(settings, DAY)
    checkpoint = locations(settings, DAY).folder / "train" / "last.ckpt"
    checkpoint.write_text("stale")
    assert run_stage(settings, DAY, Train).reused
    assert checkpoint.exists()
    assert not run_stage(settings, DAY, Train, force=True).reused
    assert not checkpoint.exists()


def test_a_forced_run_that_is_refused_removes_nothing(settings: Settings, stages: Stages) -> None:
    nightly(settings, DAY)
    weights = locations(settings, DAY).folder / "train" / "model.safetensors"
    weights.write_text("of hours")
    mistyped = settings.model_copy(update={"score": ScoreSettings(top_k=5, where="stok > 0")})
    with pytest.raises(ConfigError, match="unknown column stok"):
        nightly(mistyped, DAY, force=True)
    assert weights.exists()


def test_missing_logs_are_told_and_write_nothing(settings: Settings, stages: Stages) -> None:
    nowhere = settings.model_copy(update={"logs": LogSettings(path="nowhere")})
    with pytest.raises(InputError, match="nowhere"):
        nightly(nowhere, DAY)
    assert stages.calls == []
    assert not Path(settings.warehouse).exists()
    assert not settings.work_dir.exists()


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_later_run_without_logs_is_recorded_as_failed(
    is_empty: bool, settings: Settings, tmp_path: Path, stages: Stages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    nightly(settings, DAY)
    stages.calls.clear()
    pages: list[date] = []
    write = "pipeline.runner.nightly.write_report"
    monkeypatch.setattr(write, lambda settings, run_date: pages.append(run_date))
    logs = tmp_path / "other"
    if is_empty:
        logs.mkdir()
    without = settings.model_copy(update={"logs": LogSettings(path=str(logs))})
    with pytest.raises(InputError, match=str(logs)) as caught:
        nightly(without, NEXT)
    assert (stages.calls, pages) == ([], [NEXT])
    row = runs_of(settings)[-1]
    assert (row["run_date"], row["decision"]) == (NEXT, "failed")
    assert row["error"] == str(caught.value)
    with pytest.raises(ConfigError, match="in the future"):
        nightly(without, settings.today() + timedelta(days=2))
    assert len(runs_of(settings)) == 2


def test_recommendations_that_fail_their_checks_change_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stages: Stages
) -> None:
    first = nightly(settings, DAY).results[Gate].result
    failed = (
        Check("seen_items", "held", "items that their user has seen: 3", 3.0, 1.0),
        Check("coverage", "passed", "coverage: 0.9", 0.9),
    )
    overruled: list[bool] = []

    def check(*given: Any, overrule: bool) -> tuple[Check, ...]:
        overruled.append(overrule)
        if overrule:
            return (failed[0].overruled(), failed[1])
        raise TableCheckError("the recommendations failed", checks=failed)

    monkeypatch.setattr("pipeline.publishing.checks.check_tables", check)
    stages.calls.clear()
    with pytest.raises(TableCheckError):
        nightly(settings, NEXT)
    assert stages.calls == CALLS[:-1]
    row = runs_of(settings)[-1]
    assert (row["run_date"], row["decision"]) == (NEXT, "failed")
    assert row["reasons"] == ["items that their user has seen: 3"]
    assert [each["value"] for each in row["table_checks"]] == [3.0, 0.9]
    assert read_champion(settings, before=date(2026, 7, 3)) == first.bundle
    forced = nightly(settings, NEXT, force_publish=True).results[Publish].result
    assert [each.outcome for each in forced.checks] == ["overruled", "passed"]
    assert runs_of(settings)[-1]["table_checks"][0]["outcome"] == "overruled"
    nightly(settings, NEXT)  # what is published stays so without the flag
    assert overruled == [False, True]
