"""Work folders: damaged files count as not done, and two machines keep out of each other's way.

Many at once here; each file by itself in `tests/end_to_end/faults`.
"""

import json
import random
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.bundles.bundle import Bundle
from pipeline.config.export_section import ExportSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings, ModelSettings
from pipeline.config.settings import Settings
from pipeline.runner.nightly import nightly
from pipeline.runner.stages import Export
from pipeline.schema import RECOMMENDATIONS
from pipeline.training import export as exporting
from tests.helpers.damages import DAMAGES
from tests.helpers.stages import locations, table_uri

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

DAY = date(2026, 7, 1)
USERS, ITEMS, EVENTS = 30, 15, 6


@dataclass(frozen=True)
class Night:
    """A small finished night, and a copy of everything that it left."""

    settings: Settings
    rows: list[dict[str, Any]]
    kept: Path

    @property
    def files(self) -> list[str]:
        """What is in its work folder, apart from logs and locks."""
        folder = self.kept / "work"
        every = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        return sorted(str(path.relative_to(folder)) for path in every)

    def restore(self, *, unpublished: bool = False) -> None:
        for name in ("work", "warehouse"):
            there = self.kept.parent / name
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(self.kept / name, there)
        if unpublished:  # as if killed before the end, so that everything is needed once more
            shutil.rmtree(self.kept.parent / "warehouse" / RECOMMENDATIONS)
            for stage in ("train", "evaluate", "export"):
                locations(self.settings, DAY).record(stage).unlink()

    def again(self) -> list[dict[str, Any]]:
        nightly(self.settings, DAY)
        return published(self.settings)


def published(settings: Settings) -> list[dict[str, Any]]:
    rows = DeltaTable(table_uri(settings, RECOMMENDATIONS)).to_pyarrow_table()
    return sorted(rows.drop_columns(["generated_at"]).to_pylist(), key=repr)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("night")
    user, step = np.divmod(np.arange(USERS * EVENTS), EVENTS)
    end = datetime(2026, 6, 30, 12, tzinfo=UTC)
    times = [end - timedelta(hours=int(EVENTS - each)) for each in step]
    items = [f"item-{each:02}" for each in (user * 3 + step) % ITEMS]
    (folder / "logs").mkdir()
    log = pa.table({"user_id": user, "item_id": items, "timestamp": times})
    pq.write_table(log, folder / "logs/a.parquet")
    settings = Settings(
        warehouse=str(folder / "warehouse"),
        work_dir=folder / "work",
        logs=LogSettings(path=str(folder / "logs")),
        model=ModelSettings(
            hidden_size=8, inner_size=8, n_layers=1, MAX_ITEM_LIST_LENGTH=6, contrast="none"
        ),
        train={"epochs": 2, "accelerator": "cpu"},
        evaluate={"topk": [5, 10], "bootstrap": 0},
        export=ExportSettings(max_near_ties=1.0),
        score=ScoreSettings(top_k=4, provider="cpu"),
    )
    nightly(settings, DAY)
    for name in ("work", "warehouse"):
        shutil.copytree(folder / name, folder / "kept" / name)
    return Night(settings, published(settings), folder / "kept")


def damage(night: Night, files: list[str], kind: str) -> None:
    for number, file in enumerate(files):
        path = night.settings.work_dir / file
        if path.exists():
            DAMAGES[kind](path, random.Random(number))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty", "cut in half", "random bytes", "zeros"])
def test_a_finished_night_with_damaged_files_completes_with_the_same_rows(
    night: Night, kind: str
) -> None:
    night.restore()
    damage(night, night.files, kind)
    assert night.again() == night.rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("empty", ["*/finished.json"]),
        ("empty", ["*/last.ckpt", "*/finished.json"]),
        ("flipped bits", ["*/best.ckpt", "*/finished.json"]),
        ("random bytes", ["*.safetensors"]),
        ("flipped bits", ["*.safetensors", "*/parts/*"]),
        ("cut in half", ["*/prepared/*", "*/parts/*"]),
    ],
)
def test_a_killed_night_with_damaged_files_completes_with_the_same_rows(
    night: Night, kind: str, names: list[str]
) -> None:
    night.restore(unpublished=True)
    damage(night, [f for f in night.files if any(fnmatch(f, name) for name in names)], kind)
    assert night.again() == night.rows


@pytest.mark.slow
def test_two_machines_export_the_same_run_date_without_each_others_files(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.restore()
    one, two = (
        night.settings.model_copy(
            update={"warehouse": str(tmp_path / "warehouse"), "work_dir": tmp_path / name}
        )
        for name in ("one", "two")
    )
    real = exporting.export_both

    def while_another_exports(*given: Any, **options: Any) -> None:
        real(*given, **options)
        monkeypatch.setattr(exporting, "export_both", real)
        nightly(two, DAY)

    monkeypatch.setattr(exporting, "export_both", while_another_exports)
    nightly(one, DAY)
    rows = published(one)
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in night.rows]
    models = tmp_path / "warehouse" / "models"
    champion = json.loads((models / "champion.json").read_text())["model_version"]
    assert {row["model_version"] for row in rows} == {champion}
    assert not list(models.glob(".*"))


@pytest.mark.parametrize("lost", ["encoder.onnx", "bundle.json"])
def test_a_bundle_that_lost_a_file_is_exported_again(night: Night, lost: str) -> None:
    night.restore()
    done = nightly(night.settings, DAY).results
    bundle = done[Export].result.bundle
    (bundle / lost).unlink()
    again = nightly(night.settings, DAY).results
    assert [record.stage for record in again.records if not record.reused] == ["export"]
    assert Bundle.load(bundle).model_version == done[Export].result.model_version
    assert published(night.settings) == night.rows


def test_a_work_folder_and_logs_may_have_any_name(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path('a%2Fb%20c #d x?y run:1 100% it\'s "q" $HOME {a};b [x] back\\slash é💥')
    shutil.copytree(night.settings.logs.path, odd / "logs")
    changes = {
        "warehouse": str(tmp_path / "warehouse"),
        "work_dir": odd / "work",
        "logs": LogSettings(path=str(odd / "logs")),
    }
    settings = night.settings.model_copy(update=changes)
    nightly(settings, DAY)
    rows = published(settings)
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in night.rows]
    assert {path.name for path in tmp_path.iterdir()} == {str(odd), "warehouse"}
