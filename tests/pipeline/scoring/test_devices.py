"""Scoring in several processes, each with a device of its own, and in float16."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model.errors import ConfigError
from model.export.files import FLOAT16_RECOMMENDER, RECOMMENDER
from pipeline.bundles.bundle import Bundle, publish_bundle
from pipeline.bundles.description import DESCRIPTION
from pipeline.config.score_section import ScoreSettings
from pipeline.engines.process_pool import ProcessPool
from pipeline.errors import BundleError, PublishError, ResumeError
from pipeline.scoring.cli import app
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.encoded_part import EncodedPart
from pipeline.scoring.manifest import Manifest, ResumeKey
from pipeline.scoring.output import PartWriter
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.scorer import open_scorer, write_parts
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.folders import LocalFolder
from tests.helpers.scoring_cases import random_histories, run, write_pairs, write_sequences

TOP_K = 5


@pytest.mark.parametrize("among", [None, ["item3", "item7", "item9"]])
def test_two_processes_write_what_one_writes(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, among: list[str] | None
) -> None:
    monkeypatch.setattr("pipeline.scoring.scorer.PART_USERS", 10)
    histories = {**random_histories(75), "nobody": []}
    inputs = write_sequences(tmp_path / "s.parquet", histories)
    given: dict[str, Any] = {"batch_size": 8}
    if among is not None:
        pairs = [(user, item) for user in histories for item in among]
        given["candidates"] = write_pairs(tmp_path / "pairs.parquet", pairs)
    one, two = (
        run(inputs, tiny_bundle, tmp_path / str(count), devices=count, **given) for count in (1, 2)
    )
    assert (one.devices, two.devices) == (1, 2)
    assert (one.n_rows, one.n_fallback) == (two.n_rows, two.n_fallback)
    parts = sorted(path.name for path in (tmp_path / "1").glob("*.parquet"))
    assert parts == sorted(path.name for path in (tmp_path / "2").glob("*.parquet"))
    assert len(parts) == 8
    for name in parts:
        expected, found = (
            pq.read_table(tmp_path / count / name).drop(["generated_at"]) for count in "12"
        )
        assert found.equals(expected)


def test_processes_share_the_threads(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[Any] = []

    class Watched(ProcessPool[Any, Any]):
        def __init__(self, make_worker: Any, count: int) -> None:
            shares.append((count, make_worker(0).scorer.at_once))
            super().__init__(make_worker, count)

    monkeypatch.setattr("pipeline.scoring.engine_choice.ProcessPool", Watched)
    inputs = write_sequences(tmp_path / "s.parquet", random_histories(20))
    run(inputs, tiny_bundle, tmp_path / "out", devices=2, threads=7)
    assert shares == [(2, 3)]


@pytest.fixture
def both(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with a float16 recommender, which is the float32 one under its name."""
    staging = tmp_path / "staging"
    shutil.copytree(tiny_bundle.path, staging)
    shutil.copyfile(staging / RECOMMENDER, staging / FLOAT16_RECOMMENDER)
    (staging / DESCRIPTION).unlink()
    return publish_bundle(staging, tmp_path / "both", tiny_bundle.description)


def test_a_run_may_be_resumed_on_other_devices_but_not_in_another_precision(
    both: Bundle, tmp_path: Path
) -> None:
    inputs = write_sequences(tmp_path / "s.parquet", random_histories(20))
    run(inputs, both, tmp_path / "out", devices=1)
    assert run(inputs, both, tmp_path / "out", devices=2, resume=True).devices == 2
    with pytest.raises(ResumeError, match="precision"):
        run(inputs, both, tmp_path / "out", precision="fp16", resume=True)


def test_the_command_says_that_float16_is_not_for_cpus(both: Bundle, tmp_path: Path) -> None:
    inputs = write_sequences(tmp_path / "s.parquet", random_histories(20))
    command = [str(inputs), "--model", str(both.path), "--output", str(tmp_path / "out")]
    command += ["--provider", "cpu", "--run-date", "2026-11-20"]
    done = CliRunner().invoke(app, [*command, "--precision", "fp16"])
    assert done.exit_code == 0, done.output
    assert "model tiny-1 on CPUExecutionProvider in fp16" in done.stdout
    assert "fp16 is no faster on a CPU" in done.stdout
    done = CliRunner().invoke(app, [*command, "--overwrite", "--devices", "2"])
    assert done.exit_code == 0, done.output
    assert "model tiny-1 on 2 x CPUExecutionProvider" in done.stdout
    assert "fp16" not in done.stdout


PART = UserHistories(pa.array(["u"]), np.array([1, 2, 3]), np.array([0, 3]))


def ranked(make: Callable[[int], Any]) -> list[Ranked]:
    return list(ProcessPool(make, 1).results([PART], lambda users: None))


def test_an_error_in_a_process_is_raised_as_itself(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[:, 1::2] = -1
    embedding[1:4] = 3e38  # finite, but their sum is not
    huge = make_bundle(tmp_path / "huge", embedding=embedding)
    for bundle, precision, error, message in (
        (tiny_bundle, "fp16", ConfigError, "no recommender in float16"),  # opening it
        (huge, "fp32", BundleError, "NaN or infinite"),  # running it
    ):
        settings = ScoreSettings(provider="cpu", top_k=TOP_K, precision=precision)
        eligibility = eligible_items(bundle.items(), settings)
        make = partial(open_scorer, bundle, settings, eligibility, None)
        with pytest.raises(error, match=message):
            ranked(make)


def test_a_process_that_dies_is_reported(tmp_path: Path) -> None:
    key = ResumeKey(model_version="m", bundle={}, inputs={}, settings={})
    now = datetime(2026, 11, 25, tzinfo=UTC)
    manifest = Manifest(resume_key=key, generated_at=now, parts={}, complete=False)
    out = PartWriter(LocalFolder(tmp_path / "out"), manifest)
    engine: ProcessPool[UserHistories, EncodedPart] = ProcessPool(os._exit, 1)  # with its index
    with pytest.raises(PublishError, match=r"a scoring process died.*--resume"), out.begin():
        write_parts([PART], engine, TOP_K, out, lambda users: None)
    assert not (tmp_path / "out").exists()
