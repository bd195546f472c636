"""A whole run through Prefect, and `fearec` on what it left, on logs small enough for a test."""

import io
import json
import logging
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import DeltaTable
from typer.testing import CliRunner

from flows.cli import main as cli
from pipeline.bundles.bundle import Bundle
from pipeline.errors import FearecError, InputError
from pipeline.runner.stages import Evaluate, Export
from tests.helpers.tiny_night import (
    EVENTS,
    ITEMS,
    USERS,
    log_of,
    read_flow_run,
    task_names,
    write_logs,
    write_settings,
)

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)
NAMES = list(cli.STAGES)
ARTIFACTS = ("nightly", "stages", "metrics", "report", "training")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures(
    "shared_traces", "without_charts"
)  # of all but the first report


@dataclass(frozen=True)
class Night:
    """The folder, its settings file, and what the flow run left."""

    folder: Path
    config: Path
    parameters: Any
    state: Any
    task_names: list[str]

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows = DeltaTable(str(self.folder / "warehouse" / table)).to_pyarrow_table().to_pylist()
        return sorted(rows, key=repr)

    def versions(self) -> dict[str, int]:
        tables = (self.folder / "warehouse").glob("*/_delta_log")
        return {log.parent.name: DeltaTable(str(log.parent)).version() for log in tables}

    def fearec(self, *arguments: str) -> tuple[int, str, str]:
        command, *rest = arguments
        done = CliRunner().invoke(cli.app, [command, "--config", str(self.config), *rest])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def night(prefect: None, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """One whole night, run by Prefect."""
    from flows.scheduled.nightly import nightly
    from flows.scheduled.parameters import RunParameters

    folder = tmp_path_factory.mktemp("night")
    write_logs(folder / "logs")
    config = write_settings(folder)
    parameters = RunParameters(config=str(config), run_date=DAY)
    state = nightly(parameters, return_state=True)
    return Night(folder, config, parameters, state, task_names(state))


def test_the_flow_completes_with_a_task_per_stage(night: Night) -> None:
    assert night.state.is_completed()
    assert sorted(night.task_names) == sorted(f"{name} {DAY}" for name in NAMES)
    result = night.state.result()
    assert [record.stage for record in result.results.records] == NAMES
    assert not any(record.reused for record in result.results.records)


def test_the_flow_leaves_every_output(night: Night) -> None:
    results = {record.stage: record.result for record in night.state.result().results.records}
    assert results["ingest"].added == USERS * EVENTS
    assert results["prepare"].n_users == USERS
    assert results["evaluate"].n_users == USERS
    bundle = Bundle.load(results["export"].bundle)
    rows = night.rows("recommendations")
    assert len(rows) == results["publish"].n_rows == USERS * 4
    assert {row["model_version"] for row in rows} == {bundle.model_version}
    assert {row["run_date"] for row in rows} == {DAY}
    assert {row["source"] for row in rows} == {"model"}
    met = {(row["user_id"], row["item_id"]) for row in night.rows("interactions")}
    assert not met & {(row["user_id"], row["item_id"]) for row in rows}
    champion = json.loads((night.folder / "warehouse/models/champion.json").read_text())
    assert champion["path"] == bundle.path.name
    (run,) = night.rows("runs")
    assert (run["run_date"], run["model_version"]) == (DAY, bundle.model_version)


def test_the_flow_leaves_a_summary(night: Night) -> None:
    from prefect.artifacts import Artifact

    found = {key: Artifact.get(key) for key in ARTIFACTS}
    data = {key: artifact.data if artifact else None for key, artifact in found.items()}
    assert "decision: first" in data["nightly"]
    assert "NDCG@10" in data["nightly"]
    assert [row["stage"] for row in json.loads(data["stages"])] == NAMES
    assert "NDCG@10" in {row["metric"] for row in json.loads(data["metrics"])}
    assert data["training"] == 100.0
    page = night.folder / f"warehouse/reports/{DAY}/report.html"
    assert page.as_uri() in data["report"]
    assert f"report: {page}" in data["nightly"]


def test_the_flow_leaves_a_report(night: Night) -> None:
    reports = night.folder / "warehouse/reports"
    html = (reports / str(DAY) / "report.html").read_text()
    assert "The first model serves." in html
    for section in ("Quality", "Lists", "Some users", "Frequency response", "Time and disk"):
        assert f">{section}</h2>" in html
    assert "it chooses its delays by bins" in html
    assert f'href="{DAY}/report.html"' in (reports / "index.html").read_text()


def test_a_report_is_written_anew(night: Night) -> None:
    reports = night.folder / "warehouse/reports"
    before = (reports / str(DAY) / "report.html").read_text()
    (reports / str(DAY) / "report.html").unlink()
    code, out, _ = night.fearec("report")
    assert (code, out) == (
        0, f"report: {reports}/{DAY}/report.html\nall run dates: {reports}/index.html\n"
    )  # fmt: skip
    assert (reports / str(DAY) / "report.html").read_text().count("<h2") == before.count("<h2")
    code, out, _ = night.fearec("report", "--date", str(DAY), "--json")
    assert json.loads(out)["page"] == f"{reports}/{DAY}/report.html"
    code, _, err = night.fearec("report", "--date", str(NEXT))
    assert (code, err.count("\n")) == (2, 1)
    assert "no run of this date is recorded" in err


def test_the_flow_run_is_named_for_its_date_and_decision(night: Night) -> None:
    flow_run = read_flow_run(night.state)
    assert flow_run.name == f"night {DAY}: first"
    assert "first" in flow_run.tags


def test_what_the_stages_log_is_in_the_flow_runs_log(night: Night) -> None:
    logged = log_of(night.state)
    assert re.search(f"ingest: .* added {USERS * EVENTS},", logged)
    assert re.search(r"epoch 1 of 1: loss \d+\.\d+, NDCG@10 0\.\d+", logged)
    assert re.search("decision: first; .* serves", logged)


def test_fearec_nightly_finds_all_of_it_done(night: Night) -> None:
    versions = night.versions()
    code, out, _ = night.fearec("nightly", "--date", str(DAY))
    assert code == 0
    assert out.count("done before") == len(NAMES)
    assert "NDCG@10: model 0." in out
    assert f"{night.folder}/warehouse/recommendations" in out
    assert str(night.state.result().results[Export].result.bundle) in out
    assert out.count("user ") == 3
    assert night.versions() == versions


def test_a_flow_run_again_completes_and_changes_nothing(night: Night) -> None:
    from flows.scheduled.nightly import nightly

    versions = night.versions()
    state = nightly(night.parameters, return_state=True)
    assert state.is_completed()
    assert all(record.reused for record in state.result().results.records)
    assert night.versions() == versions


def test_one_stage_with_other_settings_needs_the_night_as_it_was(night: Night) -> None:
    rows = night.rows("recommendations")
    fewer = ("--date", str(DAY), "--set", "score.top_k=2")
    code, out, _ = night.fearec("score", *fewer)
    assert code == 0
    assert f"n_rows: {USERS * 2}" in out
    assert night.rows("recommendations") == rows  # not published yet
    assert night.fearec("publish", *fewer)[0] == 0
    assert len(night.rows("recommendations")) == USERS * 2
    assert night.fearec("nightly", "--date", str(DAY))[0] == 0
    undated = [{**row, "generated_at": None} for row in rows]
    assert [{**row, "generated_at": None} for row in night.rows("recommendations")] == undated


def test_the_metrics_stand_under_their_protocol(night: Night) -> None:
    code, out, _ = night.fearec("evaluate", "--date", str(DAY))
    assert code == 0
    evaluated = night.state.result().results[Evaluate].result
    assert f"protocol: {evaluated.protocol}" in out
    assert f"users: {USERS}, of whom the model can serve 100.0%" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if "@" in line}
    for name in ("NDCG@10", "Coverage@5"):
        assert rows[name][1] == f"{evaluated.model[name]:.4f}"
    low, high = evaluated.intervals["model"]["NDCG@10"]
    assert rows["NDCG@10"][2] == f"({low:.3f}-{high:.3f})".replace("0.", ".")


def test_a_bundle_is_evaluated_by_hand(night: Night) -> None:
    bundle = str(night.state.result().results[Export].result.bundle)
    record = night.folder / f"work/run_date={DAY}/evaluate.json"
    before = record.read_bytes()
    code, out, _ = night.fearec("evaluate", "--date", str(DAY), "--bundle", bundle)
    assert code == 0
    assert "ONNX bundle" in out
    # It was refitted on this very night's events.
    assert f"which {USERS} of {USERS} held-out events precede" in out
    assert record.read_bytes() == before
    code, _, err = night.fearec("evaluate", "--date", str(DAY), "--bundle", "nowhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "not a bundle" in err


def test_a_user_can_be_looked_at(night: Night) -> None:
    code, out, _ = night.fearec("recommend", "7")
    assert code == 0
    assert out.count("item-") == EVENTS + 4
    assert f"Recommended on {DAY}" in out
    code, _, err = night.fearec("recommend", "1234")
    assert (code, err.count("\n")) == (2, 1)
    assert "1234" in err


@pytest.mark.parametrize("user", ["[/x]", "99999999999999999999999", "\udcff", ":smile:"])
def test_an_unknown_user_is_one_line(night: Night, user: str) -> None:
    code, _, err = night.fearec("recommend", user)
    assert (code, err.count("\n")) == (2, 1)
    assert "no such user" in err


def test_titles_are_shown_beside_the_ids(night: Night) -> None:
    table = night.folder / "items.csv"
    rows = [f"item-{item:02d},Tale {item:02d}\n" for item in range(ITEMS - 1)]  # one is unknown
    table.write_text("".join(["item_id,title\n", *rows]))
    code, out, _ = night.fearec("recommend", "7", "--set", f"items.path={table}")
    assert code == 0
    assert out.count("title") == 2
    for line in out.splitlines():
        if "item-" in line:
            item = line[line.index("item-") + 5 :][:2]
            assert (f"Tale {item}" in line) == (item != f"{ITEMS - 1}")
    assert "Tale 0" in out
    assert "title" not in night.fearec("recommend", "7")[1]
    table.write_text("item_id,price\nitem-01,3\n")
    code, out, _ = night.fearec("recommend", "7", "--set", f"items.path={table}")
    assert (code, "title" in out) == (0, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,title\na,A\na,B\n", "repeated item ids"),
        ("id,title\na,A\n", "no usable column 'item_id'"),
        (None, "cannot be read"),
    ],
)
def test_an_items_table_that_cannot_be_used_is_one_line(
    night: Night, tmp_path: Path, content: str | None, message: str
) -> None:
    table = tmp_path / "items.csv"
    if content is not None:
        table.write_text(content)
    code, _, err = night.fearec("recommend", "7", "--set", f"items.path={table}")
    assert (code, err.count("\n")) == (2, 1)
    assert str(table) in err
    assert message in err


def test_another_items_table_redoes_nothing(night: Night) -> None:
    again = night.fearec("nightly", "--date", str(DAY), "--set", "items.path=elsewhere.csv")
    assert again[0] == 0
    assert again[1].count("done before") == len(NAMES)


@pytest.mark.parametrize("command", [*NAMES, "nightly", "recommend"])
def test_json_is_all_that_is_printed(night: Night, command: str) -> None:
    arguments = ["7"] if command == "recommend" else ["--date", str(DAY)]
    code, out, _ = night.fearec(command, *arguments, "--json")
    assert (code, out.count("\n")) == (0, 1)
    found = json.loads(out)
    if command in NAMES:
        assert (found["stage"], found["reused"]) == (command, True)
    elif command == "nightly":
        assert [record["stage"] for record in found["records"]] == NAMES
        assert found["decision"] == "first"
        assert found["report"]["page"].endswith(f"reports/{DAY}/report.html")
        assert found["tables"]["recommendations"] == f"{night.folder}/warehouse/recommendations"
        assert 0 <= found["metrics"]["model"]["NDCG@10"] <= 1
    else:
        assert len(found["history"]) == EVENTS
        ranked = [event["item_id"] for event in found["recommended"]["items"]]
        assert len({*ranked}) == 4


def test_a_stage_out_of_order_is_one_line(night: Night) -> None:
    code, out, err = night.fearec("train", "--date", str(NEXT))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert f"fearec ingest --date {NEXT}" in err
    assert err.count("\n") == 1


def test_the_deployed_schedule_makes_runs(prefect: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    from flows.scheduled.nightly import nightly

    deployment = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]
    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=given["cron"], timezone=given["timezone"]),
            slug=given["slug"],
            active=given["active"],
        )
        for given in deployment["schedules"]
    ]
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(nightly)
        deployed = client.create_deployment(flow_id, deployment["name"], schedules=schedules)
        # What the server's scheduler does every minute, asked for here.
        client.request(
            "POST", "/deployments/{id}/schedule", path_params={"id": deployed}, json={"min_runs": 2}
        ).raise_for_status()
        runs = client.read_flow_runs()
    due = [run.expected_start_time for run in runs if run.deployment_id == deployed]
    assert len(due) >= 2
    assert {(time.hour, time.minute) for time in due} == {(2, 0)}


def test_bad_input_fails_the_flow_with_its_one_line(prefect: None, tmp_path: Path) -> None:
    from flows.scheduled.nightly import nightly
    from flows.scheduled.parameters import RunParameters

    nowhere = tmp_path / "nowhere"
    overrides = [
        f"logs.path={nowhere}",
        f"warehouse={tmp_path}/warehouse",
        f"work_dir={tmp_path}/work",
    ]
    parameters = RunParameters(run_date=DAY, overrides=overrides)
    state = nightly(parameters, return_state=True)
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, InputError)
    assert state.message == str(error)
    assert str(nowhere) in state.message
    assert "\n" not in state.message
    assert task_names(state) == []  # refused before the first stage
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="nowhere"):
        nightly(parameters)


def test_a_failed_stage_logs_one_line_and_no_traceback(
    prefect: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.scheduled import stage_tasks
    from flows.scheduled.nightly import nightly
    from flows.scheduled.parameters import RunParameters
    from pipeline.runner.nightly import OpenRun

    def fail(*given: Any, **options: Any) -> None:
        raise FearecError("the training diverged", "its folder")

    monkeypatch.setattr(OpenRun, "do", fail)
    monkeypatch.setattr(stage_tasks, "_RETRY_DELAYS", [])
    write_logs(tmp_path / "logs")
    overrides = [f"logs.path={tmp_path}/logs", f"warehouse={tmp_path}/warehouse"]
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(f"prefect.{kind}_runs") for kind in ("flow", "task")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        overrides.append(f"work_dir={tmp_path}/work")
        parameters = RunParameters(run_date=DAY, overrides=overrides)
        state = nightly(parameters, return_state=True)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert state.is_failed()
    logged = stream.getvalue()
    assert "Failed: its folder: the training diverged\n" in logged
    assert "Traceback" not in logged
    assert len(logged.splitlines()) < 10


def test_unknown_settings_fail_the_flow(prefect: None) -> None:
    from flows.scheduled.nightly import nightly
    from flows.scheduled.parameters import RunParameters

    parameters = RunParameters(run_date=DAY, overrides=["score.topk=3"])
    state = nightly(parameters, return_state=True)
    assert state.is_failed()
    assert state.message.startswith("score.topk: unknown setting")


WITHOUT_TORCH = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lightning", "prefect", "matplotlib", "jinja2"):
            raise ImportError(f"{name} is forbidden")

sys.meta_path.insert(0, Forbidden())
from flows.cli.main import app
app()
"""


def without_torch(night: Night, *arguments: str) -> tuple[str, str]:
    """What `fearec` prints, to either output, where PyTorch and Prefect are not installed."""
    options = ["--config", str(night.config), "--date", str(DAY)]
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr


@pytest.mark.parametrize("command", ["score", "publish"])
def test_scoring_and_publishing_import_no_torch(night: Night, command: str) -> None:
    out, err = without_torch(night, command, "--force")
    assert all(line.startswith("scoring: ") for line in err.splitlines()), err
    assert f"n_rows: {USERS * 4}" in out


def test_items_and_users_of_a_night_are_compared_without_torch(night: Night) -> None:
    for by in ("cosine", "co-occurrence"):
        out, _ = without_torch(night, "related", "--top-n", "5", "--by", by)
        assert f"related_items: {ITEMS * 5} rows for {ITEMS} items by {by}; run date {DAY}" in out
        assert len(night.rows("related_items")) == ITEMS * 5
    out, _ = without_torch(night, "embeddings")
    assert f"user_embeddings: {USERS} users of 8 dimensions; run date {DAY}" in out
    ids, file = night.folder / "ids.txt", night.folder / "audience.parquet"
    ids.write_text("item-03\n")
    listed = "--items", str(ids), "--top-n", str(USERS), "--output", str(file)
    out, _ = without_torch(night, "audience", *listed)
    met = {row["user_id"] for row in night.rows("interactions") if row["item_id"] == "item-03"}
    found = pq.read_table(file).to_pylist()
    assert {row["user_id"] for row in found} == {*range(USERS)} - met
    # The scores are those of the embeddings, and of the recommendations.
    items = {row["item_id"]: row["embedding"] for row in night.rows("item_embeddings")}
    users = {row["user_id"]: row["embedding"] for row in night.rows("user_embeddings")}
    scores = {row["user_id"]: row["score"] for row in found}
    for user, score in scores.items():
        assert score == pytest.approx(np.dot(users[user], items["item-03"]), rel=1e-5, abs=1e-6)
    recommended = [row for row in night.rows("recommendations") if row["item_id"] == "item-03"]
    assert recommended
    for row in recommended:
        assert scores[row["user_id"]] == pytest.approx(row["score"], rel=1e-4, abs=1e-5)
    # Again: the run date's rows are replaced.
    assert night.fearec("embeddings")[0] == 0
    assert len(night.rows("user_embeddings")) == USERS
