"""Fuzzing of every text that is read from people or from disk: one line or a value, in time.

A small sample runs by default; ``-m slow`` runs FUZZ_EXAMPLES examples (10,000) of each.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st

from pipeline.bundles.bundle import read_description
from pipeline.bundles.registry import champion_before
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import FearecError
from pipeline.results import Exported, Prepared
from pipeline.runner.cache import StageRecord, read_record, write_record
from pipeline.runner.stages import STAGES
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.tuning.params_file import read_space
from tests.conftest import describe
from tests.helpers.fuzzing import (
    NASTY,
    SOME,
    expect_value_or_line,
    fuzz,
    json_like,
    pieces,
    texts_like,
    write,
)

DAY = date(2026, 7, 1)
MANY = int(os.environ.get("FUZZ_EXAMPLES", "10000"))
TOML = """
warehouse = "warehouse"
time_zone = "UTC"
[logs]
path = "logs"
timestamp_unit = "s"
[prepare]
user_inter_num_interval = "[5,inf)"
[model]
preset = "paper"
hidden_size = 64
MAX_ITEM_LIST_LENGTH = 50
global_ratio = 0.6
[train]
epochs = 3
learning_rate = 0.001
devices = "auto"
[evaluate]
topk = [5, 10]
split = "time"
[score]
top_k = 10
active_within_days = 30
[tune]
algo = "tpe"
"""
PARAMS = """
global_ratio choice [0.6,0.8,1.0]
learning_rate loguniform -8,0
hidden_dropout_prob quniform 0.1,0.5,0.1
topk_factor choice [1,3,5]
weight_decay uniform 0,1
"""
NAMES = [
    *(f"{section}.{name}" for section, field in Settings.model_fields.items()
      for name in getattr(field.annotation, "model_fields", ())),
    *(name for name in Settings.model_fields),
    "model.hidden_size", "model.MAX_ITEM_LIST_LENGTH", "model.n_heads", "model.contrast",
]  # fmt: skip


def read_settings(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "fearec.toml", text)
        expect_value_or_line(lambda: load_settings(path).today())


def read_override(text: str) -> None:
    expect_value_or_line(lambda: load_settings(overrides=[text]).today())


def read_environment(text: str) -> None:
    value = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    name, _, value = value.replace("\0", "").partition("=")
    with pytest.MonkeyPatch.context() as patch:
        name = name.strip().replace(".", "__").replace("=", "").upper()
        patch.setenv(f"FEAREC_{name}", value)
        expect_value_or_line(lambda: load_settings().today())


def read_params(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "hyper.test", text)
        expect_value_or_line(lambda: read_space(path, Settings()))


def read_champion(text: str) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        write(Path(folder) / "models/champion.json", text)
        locations = RunLocations(Warehouse(folder), Path(folder), DAY)
        expect_value_or_line(lambda: champion_before(locations))


def read_bundle(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "bundle.json", text)
        expect_value_or_line(lambda: read_description(path))


def read_records(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "stage.json", text)
        for stage in STAGES:
            read_record(path, stage.result_type)


@cache
def record_text() -> str:
    event = datetime(2026, 6, 1, tzinfo=UTC)
    prepared = Prepared(Path("/"), "abc", 1, "id", 4, 6, 7, event, event)
    exported = Exported(Path("/"), "v1", 0.5, 1, 0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prepare.json"
        merged: dict[str, Any] = {}
        for result in (exported, prepared):
            write_record(path, StageRecord("prepare", "abc", "def", 1.5, result))
            merged |= json.loads(path.read_text())
        return json.dumps(merged)


CHAMPION = json.dumps(
    {
        "run_date": "2026-06-30", "model_version": "v0", "path": "v0",
        "previous": [{"run_date": "2026-06-29", "model_version": "v", "path": "v"}],
    }
)  # fmt: skip
overrides = st.builds(
    lambda name, value: f"{name}={value}",
    st.one_of(st.sampled_from(NAMES), pieces),
    st.one_of(pieces, st.lists(pieces, max_size=3).map("".join)),
)

READERS: dict[str, tuple[Callable[[str], None], st.SearchStrategy[str]]] = {
    "settings file": (read_settings, texts_like(TOML)),
    "--set": (read_override, overrides),
    "environment": (read_environment, overrides),
    "params file": (read_params, texts_like(PARAMS)),
    "champion.json": (read_champion, json_like(CHAMPION)),
    "bundle.json": (read_bundle, json_like(describe().model_dump_json())),
    "stage record": (read_records, json_like(record_text())),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(FearecError):
        load_settings(overrides=["no"])  # what is loaded once does not count as time


@pytest.mark.parametrize("name", READERS)
def test_any_text_is_a_value_or_one_line(name: str) -> None:
    fuzz(*READERS[name], SOME)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_any_of_many_texts_is_a_value_or_one_line(name: str) -> None:
    fuzz(*READERS[name], MANY)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("number", range(len(NASTY)))
def test_what_has_broken_readers_before_is_a_value_or_one_line(name: str, number: int) -> None:
    READERS[name][0](NASTY[number])
    if name in ("--set", "environment"):
        for setting in (
            "time_zone",
            "logs.path",
            "evaluate.topk",
            "model.hidden_size",
            "tune.out",
            "train",
        ):
            READERS[name][0](f"{setting}={NASTY[number]}")
