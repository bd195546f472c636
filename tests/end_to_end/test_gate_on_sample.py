"""What the gate does on the sample with what once was published unseen."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.config.settings import Settings, load_settings
from pipeline.errors import GateError
from pipeline.results import Evaluated, Gated
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Evaluate, Gate, Train
from tests.helpers.stages import table_uri

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SAMPLE = Path(__file__).parents[2] / "sample_data"
N_USERS = 400
D26, D27, D28, D29 = (date(2026, 6, day) for day in (26, 27, 28, 29))

Run = Callable[..., FinishedRun]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of the sample's first users."""
    folder = tmp_path_factory.mktemp("sample")
    known = pq.read_table(SAMPLE / "logs", columns=["user_id"])["user_id"].drop_null().unique()
    users = pa.array(sorted(known.to_pylist())[:N_USERS])
    for path in sorted((SAMPLE / "logs").rglob("*.parquet")):
        rows = pq.ParquetFile(path).read()
        rows = rows.filter(pc.is_in(rows["user_id"], value_set=users))
        target = folder / "logs" / path.relative_to(SAMPLE / "logs")
        target.parent.mkdir(parents=True)
        pq.write_table(rows, target)
    return folder


def settings_of(folder: Path, overrides: Sequence[str] = ()) -> Settings:
    places = {"warehouse": "warehouse", "work_dir": "work", "logs.path": "logs"}
    given = [f"{name}={folder / place}" for name, place in places.items()]
    return load_settings(SAMPLE / "fearec.toml", [*given, "train.accelerator=cpu", *overrides])


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    def run(day: date, *overrides: str, force_publish: bool = False) -> FinishedRun:
        return nightly(settings_of(folder, overrides), day, force_publish=force_publish)

    return run


def gated(finished: FinishedRun) -> Gated:
    return finished.results[Gate].result


def evaluated(finished: FinishedRun) -> Evaluated:
    return finished.results[Evaluate].result


def published(folder: Path, day: date) -> set[str]:
    table = DeltaTable(table_uri(settings_of(folder), "recommendations")).to_pyarrow_table(
        filters=[("run_date", "=", day)], columns=["model_version"]
    )
    return set(table["model_version"].to_pylist())


def test_what_was_published_unseen_is_held(folder: Path, run: Run) -> None:
    with pytest.raises(GateError, match="diverged"):
        run(D26, "train.learning_rate=1e30")
    # From random embeddings, as otherwise the outputs are too large for the export's check.
    with pytest.raises(GateError, match="the lists have collapsed"):
        run(D26, "train.learning_rate=50", "train.item_start=random")
    first = run(D26)
    version = gated(first).model_version
    assert gated(first).decision == "first"
    good = evaluated(first).model["NDCG@10"]

    # A day of shuffled item ids: both models fall, so that it takes their level.
    path = folder / "logs" / f"dt={D27}" / "part-0.parquet"
    rows = pq.ParquetFile(path).read()
    order = np.random.default_rng(1).permutation(len(rows))
    place = rows.schema.get_field_index("item_id")
    pq.write_table(rows.set_column(place, "item_id", rows["item_id"].take(order)), path)
    spoilt = run(D27)
    assert (gated(spoilt).decision, gated(spoilt).model_version) == ("held", version)
    assert any("had on its own run date" in reason for reason in gated(spoilt).reasons)
    assert evaluated(spoilt).champion["NDCG@10"] < 0.75 * good
    pq.write_table(rows, path)
    assert gated(run(D27, "train.learning_rate=1e30")).decision == "held"
    assert published(folder, D27) == {version}

    collapsed = run(D28, "train.learning_rate=50")
    assert (gated(collapsed).decision, gated(collapsed).model_version) == ("held", version)
    reasons = "; ".join(gated(collapsed).reasons)
    for words in ("is below the champion's", "the lists have collapsed"):
        assert words in reasons
    said = [*gated(collapsed).reasons, *gated(collapsed).notes]  # of 400 users it may be chance
    assert any("is below the floor, popularity's" in each for each in said)
    assert published(folder, D28) == {version}

    after = run(D29)
    assert gated(after).decision == "promoted"
    assert after.results[Train].result.parent == version
    assert evaluated(after).model["NDCG@10"] > 0.75 * good

    # A changed architecture is a change like any other.
    other = run(date(2026, 6, 30), "model.hidden_size=48")
    assert other.results[Train].result.parent is None
    assert evaluated(other).champion_version == gated(after).model_version
    assert "champion" in evaluated(other).differences
    worse = gated(other).decision == "held"
    assert worse == (evaluated(other).differences["champion"].high < 0)

    # By force the collapsed one serves, and goes on to when the run is repeated.
    last = date(2026, 7, 1)
    forced = run(last, "train.learning_rate=50", force_publish=True)
    assert gated(forced).decision == "forced"
    again = run(last, "train.learning_rate=50")
    assert gated(again).decision == "forced"
    assert gated(again).model_version == gated(forced).candidate
    assert published(folder, last) == {gated(forced).candidate}
