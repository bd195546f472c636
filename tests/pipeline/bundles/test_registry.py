"""The registry of published models."""

from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.bundles.registry import CHAMPION
from pipeline.config.settings import Settings
from pipeline.errors import BundleError
from tests.helpers.stages import read_champion, set_champion

DAY = date(2026, 7, 1)


def settings_in(folder: Path) -> Settings:
    return Settings(warehouse=str(folder / "warehouse"), work_dir=folder / "work")


def crown(settings: Settings, day: date, version: str) -> Path:
    bundle = Path(settings.warehouse) / "models" / version
    bundle.mkdir(parents=True, exist_ok=True)
    set_champion(settings, day, bundle, version)
    return bundle


@tuned(max_examples=15, deadline=None)  # every crowning is brought to the disk
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
