"""The registry: which model serves each run date, by whose choice; and writers at once."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from subprocess import PIPE, Popen
from sys import executable
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.bundles.registry import (
    CHAMPION,
    RegisteredModel,
    champion_before,
    pinned,
    read_registry,
    register_candidate,
    register_champion,
)
from pipeline.config.settings import Settings
from pipeline.errors import BundleError, ConflictError
from pipeline.storage.locations import RunLocations, Warehouse
from tests.helpers.object_store import new_bucket, s3_server, skip_without_server
from tests.helpers.stages import locations, read_champion, set_champion

DAY = date(2026, 7, 1)


def settings_in(folder: Path) -> Settings:
    return Settings(warehouse=str(folder / "warehouse"), work_dir=folder / "work")


def crown(settings: Settings, day: date, version: str) -> Path:
    bundle = Path(settings.warehouse) / "models" / version
    bundle.mkdir(parents=True, exist_ok=True)
    set_champion(settings, day, bundle, version)
    return bundle


@tuned(max_examples=15)  # every crowning is brought to the disk
@given(st.lists(st.dates(date(2026, 1, 1), date(2026, 3, 1)), unique=True, max_size=5), st.dates())
def test_the_champion_before_a_date_does_not_depend_on_the_order(
    days: list[date], before: date
) -> None:
    with TemporaryDirectory() as folder:
        settings = settings_in(Path(folder))
        assert read_champion(settings, before=before) is None
        bundles = {day: crown(settings, day, f"v{day}") for day in days}
        earlier = [day for day in days if day < before]
        expected = bundles[max(earlier)] if earlier else None
        assert read_champion(settings, before=before) == expected


def test_a_night_done_again_takes_its_own_place(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = crown(settings, date(2026, 7, 1), "first")
    crown(settings, date(2026, 7, 2), "second")
    again = crown(settings, date(2026, 7, 2), "again")
    assert read_champion(settings, before=date(2026, 7, 2)) == first
    assert read_champion(settings, before=date(2026, 7, 3)) == again
    text = (first.parent / CHAMPION).read_text()
    assert '"second"' not in text
    assert text.index('"again"') < text.index('"first"')


def test_the_warehouse_can_be_moved(tmp_path: Path) -> None:
    crown(settings_in(tmp_path), DAY, "v1")
    moved = tmp_path / "moved"
    (tmp_path / "warehouse").rename(moved)
    champion = read_champion(Settings(warehouse=str(moved)), before=date(2026, 7, 2))
    assert champion == moved / "models" / "v1"


def test_a_broken_list_of_champions_is_told_and_kept(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    path = crown(settings, DAY, "v1").parent / CHAMPION
    path.write_text("{")
    with pytest.raises(BundleError, match=CHAMPION):
        read_champion(settings, before=date(2026, 7, 2))
    with pytest.raises(BundleError, match=CHAMPION):
        crown(settings, date(2026, 7, 2), "v2")
    assert path.read_text() == "{"


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "..", ".", "", "v1/../../elsewhere"])
def test_a_champion_outside_of_the_warehouse_is_refused(tmp_path: Path, path: str) -> None:
    settings = settings_in(tmp_path)
    registry = crown(settings, DAY, "v1").parent / CHAMPION
    registry.write_text(registry.read_text().replace('"path": "v1"', f'"path": "{path}"'))
    with pytest.raises(BundleError, match=CHAMPION):
        read_champion(settings, before=date(2026, 7, 2))


def serve(settings: Settings, day: date, version: str, decision: str, **given: Any) -> None:
    model = RegisteredModel(run_date=day, model_version=version, path=version, decision=decision)
    register_champion(locations(settings, day), model, **given)


def stored(settings: Settings) -> dict[str, Any]:
    return json.loads((Path(settings.warehouse) / "models" / CHAMPION).read_text())


def test_the_file_says_which_model_serves_each_run_date(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    serve(settings, DAY, "v1", "first", candidate="v1")
    serve(settings, DAY + timedelta(1), "v1", "held", candidate="v2")
    champion = {"run_date": "2026-07-02", "model_version": "v1", "path": "v1", "decision": "held"}
    first = {"run_date": "2026-07-01", "model_version": "v1", "path": "v1", "decision": "first"}
    candidate = {"run_date": "2026-07-02", "model_version": "v2", "path": "v2"}
    assert stored(settings) == champion | {"previous": [first], "candidate": candidate}


def test_a_file_of_version_0_1_has_neither_decisions_nor_a_candidate(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    models = Path(settings.warehouse) / "models"
    models.mkdir(parents=True)
    (models / CHAMPION).write_text(
        '{"run_date": "2026-07-02", "model_version": "v2", "path": "v2", "previous":'
        ' [{"run_date": "2026-07-01", "model_version": "v1", "path": "v1"}]}'
    )
    champion = read_registry(Warehouse(settings.warehouse))
    assert champion is not None
    assert [model.decision for model in champion.history] == ["promoted", "promoted"]
    assert champion.candidate is None
    assert pinned(locations(settings, DAY)) is None
    register_candidate(locations(settings, date(2026, 7, 3)), "v3")
    assert stored(settings)["candidate"]["model_version"] == "v3"
    assert [stored(settings)["model_version"], stored(settings)["previous"][0]["path"]] == [
        "v2",
        "v1",
    ]


def test_the_candidate_is_the_newest_runs_own_model(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    register_candidate(locations(settings, DAY), "v1")
    assert read_registry(Warehouse(settings.warehouse)) is None  # nothing serves yet
    serve(settings, DAY, "v1", "first", candidate="v1")
    register_candidate(locations(settings, DAY + timedelta(1)), "v2")
    assert stored(settings)["model_version"] == "v1"
    serve(settings, DAY + timedelta(1), "v1", "held", candidate="v2")
    register_candidate(locations(settings, DAY), "again")  # of an earlier run date
    serve(settings, DAY, "again", "promoted", candidate="again")
    serve(settings, DAY + timedelta(2), "v1", "held")  # a run that trained no model
    assert stored(settings)["candidate"]["model_version"] == "v2"


def test_a_persons_choice_is_pinned_to_its_run_date(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for decision, is_pinned in (("promoted", 0), ("forced", 1), ("held", 0), ("rolled back", 1)):
        serve(settings, DAY, "v1", decision)
        found = pinned(locations(settings, DAY))
        assert bool(found) == is_pinned, decision
        assert pinned(locations(settings, DAY + timedelta(1))) is None


def test_a_run_does_not_undo_a_choice_that_it_has_not_seen(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    serve(settings, DAY, "old", "rolled back")
    with pytest.raises(ConflictError, match=r"a person has .*found old \(rolled back\)"):
        serve(settings, DAY, "new", "promoted", candidate="new")
    assert stored(settings)["model_version"] == "old"
    assert "candidate" not in stored(settings)
    serve(settings, DAY, "old", "rolled back")  # the run done again serves it
    serve(settings, DAY, "new", "promoted", overruled="old")  # or was forced to decide afresh
    assert stored(settings)["model_version"] == "new"


# --- several writers


# Registers a run date per line that it reads.
WRITER = """
import sys
from datetime import date
from pathlib import Path
from pipeline.bundles.registry import RegisteredModel, register_champion
from pipeline.storage.locations import RunLocations, Warehouse
warehouse = Warehouse(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    day, version = line.split()
    day = date.fromisoformat(day)
    model = RegisteredModel(run_date=day, model_version=version, path=version)
    register_champion(RunLocations(warehouse, Path("work"), day), model, candidate=version)
    print("done", flush=True)
"""

skip_without_server()


@pytest.fixture(params=["disk", "store"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "warehouse")
    else:
        with s3_server(threaded=False) as url:
            yield new_bucket(url, "bucket") + "/warehouse"


def test_of_two_runs_that_register_at_once_no_entry_is_lost(warehouse: str) -> None:
    command = [executable, "-c", WRITER, warehouse]
    writers = [Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) for _ in range(2)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    days = [DAY + timedelta(days) for days in range(40)]
    for pair in zip(days[::2], days[1::2], strict=True):
        for writer, day in zip(writers, pair, strict=True):
            writer.stdin.write(f"{day} v{day}\n")
        assert [writer.stdout.readline() for writer in writers] == ["done\n"] * 2
    for writer in writers:
        writer.communicate()

    champion = read_registry(Warehouse(warehouse))
    assert [model.run_date for model in champion.history] == days[::-1]
    assert champion.candidate.run_date == days[-1]
    newest = RunLocations(Warehouse(warehouse), Path("work"), days[-1])
    assert champion_before(newest).run_date == days[-2]
