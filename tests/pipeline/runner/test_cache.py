"""Records of what is done, and the list of champions."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.bundles.registry import CHAMPION, read_champion, set_champion
from pipeline.config.settings import Settings
from pipeline.errors import BundleError
from pipeline.runner.cache import Record, fingerprint, night_folder, read_record, write_record

DAY = date(2026, 7, 1)


@dataclass(frozen=True)
class Result:
    folder: Path
    made_at: datetime
    figures: dict[str, float]
    parent: str | None


def settings_in(folder: Path) -> Settings:
    return Settings(warehouse=str(folder / "warehouse"), work_dir=folder / "work")


def recorded(folder: Path) -> Record[Result]:
    made = folder / "made"
    made.mkdir()
    moment = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=UTC)
    return Record("train", "abc", 1.5, Result(made, moment, {"NDCG@10": 0.1 + 0.2}, None))


def test_a_record_comes_back_as_it_was_and_says_it_is_reused(tmp_path: Path) -> None:
    settings, record = settings_in(tmp_path), recorded(tmp_path)
    write_record(settings, DAY, record)
    found = read_record(settings, DAY, "train", Result)
    assert found is not None
    assert found.result == record.result
    assert (found.fingerprint, found.seconds, found.reused) == ("abc", 1.5, True)


def test_there_is_no_record_of_another_stage_or_date(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_record(settings, DAY, recorded(tmp_path))
    assert read_record(settings, DAY, "export", Result) is None
    assert read_record(settings, date(2026, 7, 2), "train", Result) is None


def test_a_record_is_not_trusted_when_its_output_is_gone(tmp_path: Path) -> None:
    settings, record = settings_in(tmp_path), recorded(tmp_path)
    write_record(settings, DAY, record)
    record.result.folder.rmdir()
    assert read_record(settings, DAY, "train", Result) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "train"}', "\xff"])
def test_an_unreadable_record_counts_as_none(tmp_path: Path, content: str) -> None:
    settings = settings_in(tmp_path)
    write_record(settings, DAY, recorded(tmp_path))
    path = night_folder(settings, DAY) / "train.json"
    path.write_bytes(content.encode("latin-1"))
    assert read_record(settings, DAY, "train", Result) is None


def test_nothing_but_the_record_is_left_in_the_folder(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_record(settings, DAY, recorded(tmp_path))
    assert [path.name for path in night_folder(settings, DAY).iterdir()] == ["train.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), json_values)
def test_a_fingerprint_knows_no_order_of_names(settings: dict[str, Any], inputs: Any) -> None:
    turned = dict(reversed(settings.items()))
    assert fingerprint("score", settings, inputs) == fingerprint("score", turned, inputs)


@given(st.dictionaries(st.text(), st.integers()), st.dictionaries(st.text(), st.integers()))
def test_a_fingerprint_changes_with_settings_inputs_and_stage(
    one: dict[str, int], other: dict[str, int]
) -> None:
    assume(one != other)
    assert fingerprint("score", one, 1) != fingerprint("score", other, 1)
    assert fingerprint("score", {}, one) != fingerprint("score", {}, other)
    assert fingerprint("score", one, other) != fingerprint("train", one, other)


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
