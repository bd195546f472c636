"""Scoring on a Ray cluster: the local engine's rows whatever happens, and failures in one line.

The cluster's nodes are processes on this machine.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.bundles.bundle import Bundle
from pipeline.config.engine_section import EngineSettings
from pipeline.errors import BundleError
from pipeline.scoring.cli import app
from pipeline.scoring.manifest import read_manifest
from pipeline.storage.folders import open_folder
from tests.helpers.ray_workers import ended_within, pids, until
from tests.helpers.scoring_cases import random_histories, run, write_sequences


def parts(out: Path) -> dict[str, Any]:
    """The rows of each part, without the time of the run."""
    return {path.name: pq.read_table(path).drop(["generated_at"]) for path in out.glob("*.parquet")}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return write_sequences(tmp_path / "sequences.parquet", random_histories(95))


@pytest.fixture
def local(
    inputs: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the local engine writes, in parts of ten users."""
    monkeypatch.setattr("pipeline.scoring.scorer.PART_USERS", 10)
    run(inputs, tiny_bundle, tmp_path / "local")
    written = parts(tmp_path / "local")
    assert len(written) == 10
    return written


def on(cluster: Any, **settings: Any) -> EngineSettings:
    return EngineSettings(kind="ray", address=cluster.address, **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("rules", ["none", "segments", "candidates"])
def test_the_rows_are_those_of_the_local_engine(
    cluster: Any, inputs: Path, local: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path,
    rules: str,
) -> None:  # fmt: skip
    asked: dict[str, Any] = {}
    if rules == "segments":
        (tmp_path / "few.txt").write_text("user003\nuser050\n")
        few = {"name": "few", "users": str(tmp_path / "few.txt"), "top_k": 2}
        asked = {"layout": "list", "because": True, "segment": [few]}
    if rules == "candidates":
        pairs = [(f"user{user:03}", f"item{item}") for user in range(90) for item in (3, 7, 9)]
        table = pa.table(dict(zip(("user_id", "item_id"), zip(*pairs, strict=True), strict=True)))
        pq.write_table(table, tmp_path / "pairs.parquet")
        asked = {"candidates": str(tmp_path / "pairs.parquet")}
    if asked:
        run(inputs, tiny_bundle, tmp_path / "more", **asked)
        assert parts(tmp_path / "more") != local
        local = parts(tmp_path / "more")
    done = run(inputs, tiny_bundle, tmp_path / "out", engine=on(cluster), **asked)
    assert (done.devices, done.provider, done.n_users) == (2, "CPUExecutionProvider", 95)
    assert parts(tmp_path / "out") == local
    assert [each.n_users for each in done.segments] == [2] * (rules == "segments")
    again = run(inputs, tiny_bundle, tmp_path / "out", resume=True, **asked)
    assert again.n_users == 95


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_workers_error_is_raised_as_itself(
    cluster: Any, inputs: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[:, 1::2] = -1
    embedding[1:] *= 3e38  # finite, but their sum is not
    huge = make_bundle(tmp_path / "huge", embedding=embedding)
    with pytest.raises(BundleError, match="NaN or infinite"):
        run(inputs, huge, tmp_path / "out", engine=on(cluster, max_workers=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process_and_is_resumed(
    cluster: Any, inputs: Path, local: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path,
    end: signal.Signals,
) -> None:  # fmt: skip
    workers, out = tmp_path / "workers", tmp_path / "out"
    workers.mkdir()
    command = [
        sys.executable, "-m", "tests.helpers.ray_workers", str(workers), str(inputs),
        f"--model={tiny_bundle.path}", f"--output={out}", "--run-date=2026-11-20", "--top-k=5",
        "--engine=ray", "--set", f"engine.address={cluster.address}", "--provider=cpu",
    ]  # fmt: skip
    stderr = tmp_path / "stderr"
    with stderr.open("w") as file:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    until(lambda: driver.poll() is not None or len(list(out.glob("*.parquet"))) >= 2)
    assert driver.poll() is None, stderr.read_text()
    driver.send_signal(end)
    driver.wait(20)
    assert driver.returncode != 0
    assert ended_within(pids(workers), 20)
    finished = read_manifest(open_folder(out)).parts
    assert 0 < len(finished) < len(local)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "95 users" in done.stdout
    assert "on 2 x CPUExecutionProvider" in done.stdout
    assert len(done.stdout.splitlines()) == 4  # with the unknown items; nothing of Ray
    assert parts(out) == local
    assert ended_within(pids(workers), 20)
    begun = {path.name.partition("-")[2] for path in workers.iterdir()}
    assert len(begun) == len(local)


def command(bundle: Bundle, inputs: Path, *options: str) -> Any:
    arguments = [str(inputs), f"--model={bundle.path}", f"--output={inputs.parent / 'out'}"]
    return CliRunner().invoke(app, [*arguments, "--engine=ray", *options])


def test_a_missing_package_is_one_line(
    tiny_bundle: Bundle, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = command(tiny_bundle, inputs)
    assert done.exit_code == 2
    assert "Ray is not installed" in done.stderr
    assert "pip install 'fearec[ray]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (inputs.parent / "out").exists()


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:9", "Connection refused"), ("nowhere.invalid:6379", "not known")],
)
def test_an_address_where_no_cluster_answers_is_one_line(
    tiny_bundle: Bundle, inputs: Path, address: str, why: str
) -> None:
    pytest.importorskip("ray")
    done = command(tiny_bundle, inputs, "--set", f"engine.address={address}")
    assert done.exit_code == 2
    assert "engine.address: no Ray cluster answers" in done.stderr
    assert f"{address}: " in done.stderr
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (inputs.parent / "out").exists()
