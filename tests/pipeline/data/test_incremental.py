"""An incremental prepare writes what one from the beginning does, byte for byte."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.data.incremental
import pipeline.data.prepare
from pipeline import schema
from pipeline.config.settings import Settings
from pipeline.results import Ingested, Prepared
from pipeline.storage.prepared_folder import prepared_hash
from tests.helpers.stages import ingest, prepare

FIRST = date(2026, 6, 1)
DAY = timedelta(days=1)

Row = tuple[int, int, datetime]


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def settings_in(folder: Path, **sections: Any) -> Settings:
    return Settings(
        warehouse=str(folder / "warehouse"),
        work_dir=folder / "work",
        logs={"path": str(folder / "logs")},
        **sections,
    )


@dataclass
class Shop:
    """Log files that change from night to night; few hours and items, so many times are equal."""

    settings: Settings
    random: Random
    ids: Callable[[int], Any] = int
    files: dict[str, list[Row]] = field(default_factory=dict)

    def rows(self, count: int, day: date, n_users: int = 12) -> list[Row]:
        draw = self.random.randrange
        return [
            (draw(n_users), draw(9), noon(day) + timedelta(hours=draw(3))) for _ in range(count)
        ]

    def change(self, day: date) -> None:
        """A file of the day, with late events, and sometimes a correction or a backfill."""
        new = self.rows(self.random.randrange(1, 9), day, n_users=15)
        new += self.rows(self.random.randrange(3), day - self.random.randrange(1, 9) * DAY)
        self.files[f"{day}.parquet"] = new
        if self.random.random() < 0.5:
            self.files[f"{day}-late.parquet"] = self.rows(3, day - DAY)
        if self.random.random() < 0.5:
            name = self.random.choice(sorted(self.files))
            kept = self.files[name][self.random.randrange(2) :]
            self.files[name] = [*self.rows(self.random.randrange(2), day - 2 * DAY), *kept]
        if self.random.random() < 0.3:
            self.files[f"0-{day}.parquet"] = self.rows(4, day - 20 * DAY)
        self.write()

    def write(self) -> None:
        folder = Path(self.settings.logs.path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.files.items():
            if not rows:  # ingest passes over files without rows
                rows = self.rows(1, FIRST)
            users, items, times = zip(*rows, strict=True)
            ids = [pa.array([self.ids(each) for each in column]) for column in (users, items)]
            names = [schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP]
            table = pa.table([*ids, pa.array(times, schema.TIME)], names)
            if not (folder / name).exists() or not pq.read_table(folder / name).equals(table):
                pq.write_table(table, folder / name)


def from_the_beginning(settings: Settings, day: date, ingested: Ingested, beside: Path) -> Prepared:
    """The same night without earlier histories, in a copy of the warehouse."""
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(settings.warehouse, beside / "warehouse")
    return prepare(settings_in(beside), day, ingested)


def check_same(found: Prepared, expected: Prepared) -> None:
    same = replace(found, folder=expected.folder, vocabulary_id=expected.vocabulary_id)
    assert same == expected
    assert prepared_hash(found.folder) == expected.content_hash


@pytest.fixture
def never_anew(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a prepare from the beginning is an error."""

    def fails(*_: object) -> None:
        raise AssertionError("prepared from the beginning")

    return lambda: monkeypatch.setattr(pipeline.data.prepare, "_write_all", fails)


def replay(folder: Path, seed: int, ids: Callable[[int], Any], nights: int) -> None:
    settings = settings_in(folder)
    shop = Shop(settings, Random(seed), ids)
    earlier = None
    write_all = pipeline.data.prepare._write_all
    for number in range(nights):
        day = FIRST + number * DAY
        shop.change(day)
        ingested = ingest(settings, day)
        expected = from_the_beginning(settings, day, ingested, folder / "beside")
        with pytest.MonkeyPatch.context() as patch:
            if earlier is not None:
                patch.setattr(pipeline.data.prepare, "_write_all", None)
            earlier = prepare(settings, day, ingested, earlier)
        assert pipeline.data.prepare._write_all is write_all
        check_same(earlier, expected)


@pytest.mark.parametrize("ids", [int, "user-{}".format], ids=["integers", "strings"])
@pytest.mark.parametrize("seed", range(1))
def test_every_night_of_a_replay_is_that_of_a_prepare_from_the_beginning(
    tmp_path: Path, seed: int, ids: Callable[[int], Any]
) -> None:
    replay(tmp_path, seed, ids, nights=5)
