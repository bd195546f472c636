"""Records of what is done, and cache keys of what is given."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config.settings import Settings
from pipeline.runner.cache import (
    NOT_IN_KEY,
    Stage,
    StageRecord,
    cache_key,
    read_record,
    write_record,
)
from pipeline.storage.locations import RunLocations, Warehouse
from tests.helpers.stages import locations


@dataclass(frozen=True)
class Result:
    folder: Path
    made_at: datetime
    figures: dict[str, float]
    parent: str | None


def recorded(folder: Path) -> StageRecord[Result]:
    made = folder / "made"
    made.mkdir()
    moment = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=UTC)
    return StageRecord(
        "train", "abc", "def", 1.5, Result(made, moment, {"NDCG@10": 0.1 + 0.2}, None)
    )


def test_a_record_comes_back_as_it_was_and_says_it_is_reused(tmp_path: Path) -> None:
    path, record = tmp_path / "run" / "train.json", recorded(tmp_path)
    write_record(path, record)
    found = read_record(path, Result)
    assert found is not None
    assert found.result == record.result
    assert (found.cache_key, found.output_key, found.seconds) == ("abc", "def", 1.5)
    assert found.reused


def test_there_is_no_record_of_another_stage_or_date(tmp_path: Path) -> None:
    run = locations(Settings(work_dir=tmp_path), date(2026, 7, 1))
    other = locations(Settings(work_dir=tmp_path), date(2026, 7, 2))
    write_record(run.record("train"), recorded(tmp_path))
    assert read_record(run.record("train"), Result) is not None
    assert read_record(run.record("export"), Result) is None
    assert read_record(other.record("train"), Result) is None


def test_a_record_is_not_trusted_when_its_output_is_gone(tmp_path: Path) -> None:
    path, record = tmp_path / "run" / "train.json", recorded(tmp_path)
    write_record(path, record)
    record.result.folder.rmdir()
    assert read_record(path, Result) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "train"}', "\xff"])
def test_an_unreadable_record_counts_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run" / "train.json"
    write_record(path, recorded(tmp_path))
    path.write_bytes(content.encode("latin-1"))
    assert read_record(path, Result) is None


def test_a_folder_in_a_records_place_counts_as_none_and_is_replaced(tmp_path: Path) -> None:
    path, record = tmp_path / "run" / "train.json", recorded(tmp_path)
    (path / "inside").mkdir(parents=True)
    assert read_record(path, Result) is None
    write_record(path, record)
    found = read_record(path, Result)
    assert found is not None
    assert found.result == record.result


def test_nothing_but_the_record_is_left_in_the_folder(tmp_path: Path) -> None:
    write_record(tmp_path / "run" / "train.json", recorded(tmp_path))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@dataclass(frozen=True)
class First(Stage[Result]):
    """A stage that is given anything."""

    name = "first"
    result_type = Result

    settings: dict[str, Any]
    inputs: Any
    settings_as_told: Any = field(default=None, metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, *_: Any) -> "First":
        raise NotImplementedError

    def run(self) -> Result:
        raise NotImplementedError


class Second(First):
    name = "second"


class Recoded(First):
    code_version = 2


@given(st.dictionaries(st.text(), json_values), json_values)
def test_a_cache_key_knows_no_order_of_names(settings: dict[str, Any], inputs: Any) -> None:
    turned = dict(reversed(settings.items()))
    assert cache_key(First(settings, inputs)) == cache_key(First(turned, inputs))


@given(st.dictionaries(st.text(), st.integers()), st.dictionaries(st.text(), st.integers()))
def test_a_cache_key_changes_with_what_is_given_the_stage_and_its_code(
    one: dict[str, int], other: dict[str, int]
) -> None:
    assume(one != other)
    assert cache_key(First(one, 1)) != cache_key(First(other, 1))
    assert cache_key(First({}, one)) != cache_key(First({}, other))
    assert cache_key(First(one, other)) != cache_key(Second(one, other))
    assert cache_key(First(one, other)) != cache_key(Recoded(one, other))
    assert cache_key(First({}, 1, one)) == cache_key(First({}, 1, other))


def test_a_cache_key_knows_the_warehouse_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def key(warehouse: str) -> str:
        return cache_key(
            First({}, RunLocations(Warehouse(warehouse), Path("work"), date(2026, 7, 1)))
        )

    there = tmp_path / "a warehouse"
    spellings = ["a warehouse", "./a warehouse/", str(there), there.as_uri()]
    assert len(set(map(key, spellings))) == 1
    assert key("s3://bucket/warehouse/") == key("s3://bucket/warehouse")
    assert len({key(each) for each in ("a", "b", "s3://bucket/a", "s3://bucket/b")}) == 4
