"""A warehouse and bundles that version 0.1.0 wrote go on being used: `tests/golden/version_0_1`."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import chdir
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from deltalake import DeltaTable
from typer.testing import CliRunner

from flows.cli.main import app as fearec
from pipeline.scoring.cli import app as fearec_score

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

GOLDEN = Path(__file__).parents[1] / "golden" / "version_0_1"
SECOND, THIRD, FOURTH = (date(2026, 6, day) for day in (2, 3, 4))
BUNDLES = {SECOND: "20260602-0db89ae1", THIRD: "20260603-c54d8fb4"}
USERS, TOP_K = 12, 5

Rows = list[dict[str, Any]]


def rows(table: str, folder: Path = GOLDEN) -> Rows:
    found = DeltaTable(str(folder / "warehouse" / table)).to_pyarrow_table().to_pylist()
    return sorted(found, key=repr)


def of(run_date: date, found: Rows) -> Rows:
    return [row for row in found if row["run_date"] == run_date]


def champion(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "warehouse/models/champion.json").read_text())


def run(app: typer.Typer, folder: Path, arguments: Sequence[str]) -> str:
    """A command in the folder, whose settings name their paths relative to it."""
    with chdir(folder):
        done = CliRunner().invoke(app, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fourth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse after one more night, with a log of its own: a new user and a new item."""
    folder = tmp_path_factory.mktemp("fourth") / "version_0_1"
    shutil.copytree(GOLDEN, folder)
    # git keeps no times; with those of then, the logs are the very files that were read.
    for log in rows("log_files"):
        nanoseconds = int(log["source_stamp"].split()[0].split("-")[1])
        os.utime(folder / "logs" / log["source_file"], ns=(nanoseconds, nanoseconds))
    users = [*range(USERS), USERS, USERS, 0]
    items = [f"sku-{(user * 5) % 15:02}" for user in users]
    items[-1] = "sku-new"
    noon = datetime(2026, 6, 4, 12, tzinfo=UTC)
    times = [noon + timedelta(minutes=minute) for minute in range(len(users))]
    path = folder / "logs/dt=2026-06-04/part-0.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), path)
    run(fearec, folder, ["nightly", "--date", str(FOURTH)])
    return folder


@pytest.fixture(scope="module")
def third_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse after the last night was done again: logs with other times, no work folder."""
    folder = tmp_path_factory.mktemp("third") / "version_0_1"
    shutil.copytree(GOLDEN, folder, copy_function=shutil.copyfile)
    run(fearec, folder, ["nightly", "--date", str(THIRD)])
    return folder


def as_of_0_1(run: dict[str, Any]) -> dict[str, Any]:
    """A row of `runs` without the columns that came later, which must be empty."""
    columns = rows("runs")[0].keys()
    assert not any(value for name, value in run.items() if name not in columns)
    return {name: run[name] for name in columns}


def test_the_next_night_reads_only_the_new_log(fourth: Path) -> None:
    (ran,) = of(FOURTH, rows("runs", fourth))
    assert (ran["n_added"], ran["n_duplicates"], ran["n_quarantined"]) == (15, 0, 0)
    assert len(rows("interactions", fourth)) == len(rows("interactions")) + 15
    old = [row for row in rows("interactions", fourth) if "06-04" not in row["source_file"]]
    unknown = {"event_type": None, "value": None}  # columns that version 0.1 did not have
    assert old == [row | unknown for row in rows("interactions")]
    assert rows("quarantine", fourth) == rows("quarantine")


def test_the_next_night_starts_from_the_champion(fourth: Path) -> None:
    (ran,) = of(FOURTH, rows("runs", fourth))
    assert ran["parent"] == ran["champion"] == BUNDLES[THIRD]
    assert set(dict(ran["champion_metrics"])) == set(dict(ran["metrics"]))
    assert "champion" in dict(ran["difference"])
    now = champion(fourth)
    description = fourth / "warehouse/models" / now["path"] / "bundle.json"
    assert json.loads(description.read_text())["parent"] == BUNDLES[THIRD]
    assert now["model_version"] == ran["model_version"]
    before = champion(GOLDEN)
    newest = {name: before[name] for name in ("run_date", "model_version", "path")}
    decided = {"decision": "promoted"}  # which version 0.1 did not write
    assert now["previous"] == [each | decided for each in (newest, *before["previous"])]


def test_the_next_night_keeps_the_indices_of_items(fourth: Path) -> None:
    old = {row["item_id"]: row["item_index"] for row in rows("vocabulary")}
    assert len(old) == 15
    expected = old | {"sku-new": 16}
    assert {row["item_id"]: row["item_index"] for row in rows("vocabulary", fourth)} == expected
    items = pq.read_table(fourth / "warehouse/models" / champion(fourth)["path"] / "items.parquet")
    pairs = zip(items["item_id"].to_pylist(), items["item_index"].to_pylist(), strict=True)
    assert dict(pairs) == expected


def test_the_next_night_adds_a_partition_and_a_run(fourth: Path) -> None:
    published = rows("recommendations", fourth)
    assert [row for row in published if row["run_date"] != FOURTH] == rows("recommendations")
    mine = of(FOURTH, published)
    assert {row["user_id"] for row in mine} == set(range(USERS + 1))
    assert len(mine) == (USERS + 1) * TOP_K
    assert {row["model_version"] for row in mine} == {champion(fourth)["model_version"]}
    runs = rows("runs", fourth)
    assert [as_of_0_1(row) for row in runs if row["run_date"] != FOURTH] == rows("runs")


def test_a_night_done_again_replaces_its_partition(third_again: Path) -> None:
    published = rows("recommendations", third_again)
    assert of(SECOND, published) == of(SECOND, rows("recommendations"))
    mine = of(THIRD, published)
    assert len({(row["user_id"], row["rank"]) for row in mine}) == len(mine) == USERS * TOP_K
    then = {row["generated_at"] for row in of(THIRD, rows("recommendations"))}
    assert not {row["generated_at"] for row in mine} & then
    assert len(published) == len(rows("recommendations"))


def test_a_night_done_again_doubles_nothing(third_again: Path) -> None:
    events = [(row["user_id"], row["item_id"], row["timestamp"]) for row in rows("interactions")]
    now = rows("interactions", third_again)
    assert [(row["user_id"], row["item_id"], row["timestamp"]) for row in now] == events
    reasons = [(row["reason"], row["source_row"]) for row in rows("quarantine", third_again)]
    assert reasons == [("null item_id", 3)]
    assert rows("vocabulary", third_again) == rows("vocabulary")
    runs = rows("runs", third_again)
    assert [as_of_0_1(row) for row in of(SECOND, runs)] == of(SECOND, rows("runs"))
    before, ran = sorted(of(THIRD, runs), key=lambda row: row["started_at"])
    assert [as_of_0_1(before)] == of(THIRD, rows("runs"))
    assert ran["parent"] == BUNDLES[SECOND]
    assert ran["n_added"] == 0
    assert champion(third_again)["run_date"] == str(THIRD)
    assert len(champion(third_again)["previous"]) == 1


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy in which nothing was run yet."""
    return shutil.copytree(GOLDEN, tmp_path / "version_0_1")


@pytest.mark.parametrize("run_date", [SECOND, THIRD])
def test_an_old_bundle_scores_as_it_did(golden: Path, run_date: date) -> None:
    bundle = f"warehouse/models/{BUNDLES[run_date]}"
    options = ["--model", bundle, "--output", "out", "--run-date", str(run_date)]
    run(fearec_score, golden, ["logs", *options])
    found = pq.read_table(golden / "out").to_pylist()
    found.sort(key=lambda row: (row["user_id"], row["rank"]))
    then = of(run_date, rows("recommendations"))
    then.sort(key=lambda row: (row["user_id"], row["rank"]))
    names = ("user_id", "rank", "item_id", "source", "model_version", "run_date")
    assert [[row[name] for name in names] for row in found] == [
        [row[name] for name in names] for row in then
    ]
    scores = [[row["score"] for row in each] for each in (found, then)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)


def test_an_old_user_is_shown(golden: Path) -> None:
    out = run(fearec, golden, ["recommend", "7"])
    assert "Last events of 7" in out
    assert f"Recommended on {THIRD} by {BUNDLES[THIRD]}" in " ".join(out.split())
    first = next(
        row for row in of(THIRD, rows("recommendations")) if (row["user_id"], row["rank"]) == (7, 1)
    )
    assert f"{first['score']:.4f}" in out


def test_an_old_bundle_is_evaluated(fourth: Path) -> None:
    bundle = f"warehouse/models/{BUNDLES[THIRD]}"
    out = run(fearec, fourth, ["evaluate", "--date", str(FOURTH), "--bundle", bundle])
    assert f"users: {USERS + 1}," in out
    assert "NDCG@5" in out
    # It does not know the new item, which is the last of user 0.
    assert "events with items unknown to the model: 0 left out of histories, 1 held out" in out
