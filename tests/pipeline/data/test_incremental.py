"""An incremental prepare writes what one from the beginning does, byte for byte."""

import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

import pipeline.data.incremental
import pipeline.data.prepare
import pipeline.data.sequence_files
from pipeline import schema
from pipeline.config.sections import PrepareSettings
from pipeline.config.settings import Settings
from pipeline.data.event_rows import EventRows
from pipeline.data.incremental import NotIncrementalError, mergeable
from pipeline.results import Ingested, Prepared
from pipeline.runner.nightly import run_stage
from pipeline.runner.stages import Ingest, Prepare
from pipeline.storage.prepared_folder import prepared_hash
from tests.helpers.ingest_cases import settings_in
from tests.helpers.stages import ingest, prepare, table_uri

FIRST = date(2026, 6, 1)
DAY = timedelta(days=1)

Row = tuple[int, int, datetime, str | None]


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


@dataclass
class Shop:
    """Log files that change from night to night; few hours and items, so many times are equal."""

    settings: Settings
    random: Random
    ids: Callable[[int], Any] = int
    kinds: tuple[str | None, ...] = ()  # types of events: of day n the first n + 1, and none later
    files: dict[str, list[Row]] = field(default_factory=dict)

    def rows(self, count: int, day: date, n_users: int = 12) -> list[Row]:
        draw = self.random.randrange
        last = max(1, (day - FIRST).days + 1)
        kinds = self.kinds[max(0, last - 3) : last]
        return [
            (
                draw(n_users),
                draw(9),
                noon(day) + timedelta(hours=draw(3)),
                kinds[draw(len(kinds))] if kinds else None,
            )
            for _ in range(count)
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
            users, items, times, kinds = zip(*rows, strict=True)
            ids = [pa.array([self.ids(each) for each in column]) for column in (users, items)]
            names = [schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP, schema.EVENT_TYPE]
            arrays = [*ids, pa.array(times, schema.TIME), pa.array(kinds, pa.string())]
            table = pa.table(arrays, names)
            if not (folder / name).exists() or not pq.read_table(folder / name).equals(table):
                pq.write_table(table, folder / name)


def from_the_beginning(settings: Settings, day: date, ingested: Ingested, beside: Path) -> Prepared:
    """The same night without earlier histories, in a copy of the warehouse."""
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(settings.warehouse, beside / "warehouse")
    return prepare(settings_in(beside, event_type=settings.logs.event_type), day, ingested)


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


def replay(
    folder: Path,
    seed: int,
    ids: Callable[[int], Any],
    nights: int,
    kinds: tuple[str | None, ...] = (),
) -> None:
    settings = settings_in(folder, event_type="event_type" if kinds else None)
    shop = Shop(settings, Random(seed), ids, kinds)
    earlier = None
    for number in range(nights):
        day = FIRST + number * DAY
        shop.change(day)
        ingested = ingest(settings, day)
        expected = from_the_beginning(settings, day, ingested, folder / "beside")
        with pytest.MonkeyPatch.context() as patch:
            if earlier is not None:
                patch.setattr(pipeline.data.prepare, "_write_all", None)
            earlier = prepare(settings, day, ingested, earlier)
        check_same(earlier, expected)
        assert (earlier.folder / "event_types.parquet").exists() == bool(kinds)


@pytest.mark.parametrize(
    "ids",  # of integers is the next replay, too
    [pytest.param(int, marks=pytest.mark.slow), "user-{}".format],
    ids=["integers", "strings"],
)
def test_every_night_of_a_replay_is_that_of_a_prepare_from_the_beginning(
    tmp_path: Path, ids: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.data.sequence_files, "_BATCH_EVENTS", 5)
    replay(tmp_path, 10, ids, nights=4)


# In another order than that of their names, so that indices move as types come and go. The first
# files have none at all.
KINDS = (None, "view", "buy", None, "add", "zoom", "cart", "like", "wish")


def test_types_of_events_come_and_go_as_in_a_prepare_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.data.sequence_files, "_BATCH_EVENTS", 5)
    replay(tmp_path, 10, int, nights=4, kinds=KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_every_night_of_many_replays(tmp_path: Path, seed: int) -> None:
    ids = int if seed % 2 else "user-{}".format
    replay(tmp_path, seed, ids, nights=8, kinds=KINDS if seed % 3 else ())


def two_nights(tmp_path: Path) -> tuple[Shop, Prepared, Ingested]:
    """A shop whose first night is prepared, and whose second one is ingested."""
    shop = Shop(settings_in(tmp_path), Random(7))
    shop.files["a.parquet"] = shop.rows(30, FIRST)
    shop.write()
    earlier = prepare(shop.settings, FIRST, ingest(shop.settings, FIRST))
    shop.files["b.parquet"] = shop.rows(9, FIRST + DAY)
    shop.write()
    return shop, earlier, ingest(shop.settings, FIRST + DAY)


def test_rows_that_only_moved_to_other_files_of_the_table_are_no_change(
    tmp_path: Path, never_anew: Callable[[], None]
) -> None:
    shop, earlier, _ = two_nights(tmp_path)
    table = DeltaTable(table_uri(shop.settings, "interactions"))
    write_deltalake(table, table.to_pyarrow_table(), mode="overwrite")
    table.optimize.compact()
    ingested = replace(ingest(shop.settings, FIRST), interactions_version=table.version())
    never_anew()
    again = prepare(shop.settings, FIRST, ingested, earlier)
    assert again == replace(earlier, interactions_version=table.version())


def test_merged_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, earlier, ingested = two_nights(tmp_path)
    table = DeltaTable(table_uri(shop.settings, "interactions"))
    assert table.optimize.compact()["numFilesRemoved"] == 2
    ingested = replace(ingested, interactions_version=table.version())
    changes = pipeline.data.incremental.changed_files(table, earlier.interactions_version)
    assert changes is not None
    assert (changes.added.count_rows(), changes.removed.count_rows()) == (9, 0)
    expected = from_the_beginning(shop.settings, FIRST + DAY, ingested, tmp_path / "beside")
    monkeypatch.setattr(pipeline.data.prepare, "_write_all", None)
    check_same(prepare(shop.settings, FIRST + DAY, ingested, earlier), expected)


def test_events_of_after_the_earlier_run_date_come_from_the_table(
    tmp_path: Path, never_anew: Callable[[], None]
) -> None:
    shop = Shop(settings_in(tmp_path), Random(3))
    shop.files["a.parquet"] = [*shop.rows(30, FIRST), *shop.rows(20, FIRST + DAY)]
    shop.write()
    ingested = ingest(shop.settings, FIRST + DAY)
    earlier = prepare(shop.settings, FIRST, ingested)
    expected = from_the_beginning(shop.settings, FIRST + DAY, ingested, tmp_path / "beside")
    never_anew()
    check_same(prepare(shop.settings, FIRST + DAY, ingested, earlier), expected)
    assert expected.n_interactions > earlier.n_interactions


def test_users_and_items_whose_events_all_went(
    tmp_path: Path, never_anew: Callable[[], None]
) -> None:
    shop = Shop(settings_in(tmp_path), Random(0))
    shop.files["a.parquet"] = [
        (user, item, noon(FIRST), None) for user, item in ((1, 5), (2, 6), (3, 5))
    ]
    shop.files["b.parquet"] = [
        (user, item, noon(FIRST) - DAY, None) for user, item in ((4, 7), (1, 5))
    ]
    shop.write()
    earlier = prepare(shop.settings, FIRST, ingest(shop.settings, FIRST))
    shop.files["a.parquet"] = [(1, 6, noon(FIRST) - 2 * DAY, None)]
    shop.files["b.parquet"] = [(1, 5, noon(FIRST) - DAY, None)]
    shop.write()
    ingested = ingest(shop.settings, FIRST)
    expected = from_the_beginning(shop.settings, FIRST, ingested, tmp_path / "beside")
    never_anew()
    check_same(prepare(shop.settings, FIRST, ingested, earlier), expected)
    assert (expected.n_users, expected.n_interactions) == (1, 2)


def without_folder(shop: Shop, earlier: Prepared) -> Prepared:
    shutil.rmtree(earlier.folder)
    return earlier


def with_a_changed_file(shop: Shop, earlier: Prepared) -> Prepared:
    path = earlier.folder / "sequences" / "3.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    return earlier


def without_log(shop: Shop, earlier: Prepared) -> Prepared:
    table = DeltaTable(table_uri(shop.settings, "interactions"))
    table.create_checkpoint()
    for path in Path(table.table_uri.removeprefix("file://")).glob("_delta_log/*.json"):
        path.unlink()
    return earlier


def with_another_vocabulary(shop: Shop, earlier: Prepared) -> Prepared:
    Path(table_uri(shop.settings, "vocabulary")).rename(shop.settings.work_dir / "lost")
    return earlier


def with_a_shorter_vocabulary(shop: Shop, earlier: Prepared) -> Prepared:
    table = DeltaTable(table_uri(shop.settings, "vocabulary"))
    write_deltalake(table, table.to_pyarrow_table().slice(0, 0), mode="overwrite")
    return earlier


UNFIT: dict[str, tuple[Callable[[Shop, Prepared], Prepared], str]] = {
    "no folder": (without_folder, "is not what it was"),
    "a changed file": (with_a_changed_file, "is not what it was"),
    "no log": (without_log, "log of the table does not say"),
    "another vocabulary": (with_another_vocabulary, "the vocabulary was made anew"),
    "a shorter vocabulary": (with_a_shorter_vocabulary, "lost items"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_merged_is_prepared_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    shop, earlier, ingested = two_nights(tmp_path)
    spoil, reason = UNFIT[name]
    earlier = spoil(shop, earlier)
    expected = from_the_beginning(shop.settings, FIRST + DAY, ingested, tmp_path / "beside")
    with caplog.at_level("INFO", logger="pipeline"):
        found = prepare(shop.settings, FIRST + DAY, ingested, earlier)
    assert reason in next(text for text in caplog.messages if "from the beginning" in text)
    check_same(found, expected)


def test_too_many_changes_are_prepared_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, earlier, ingested = two_nights(tmp_path)
    monkeypatch.setattr(pipeline.data.incremental, "_FEW", 8)
    with caplog.at_level("INFO", logger="pipeline"):
        prepare(shop.settings, FIRST + DAY, ingested, earlier)
    assert "too much of the table was written anew" in caplog.text


def test_what_is_of_something_else_is_not_merged_into(tmp_path: Path) -> None:
    shop, earlier, ingested = two_nights(tmp_path)
    everything, few = PrepareSettings(), PrepareSettings(user_inter_num_interval="[2,inf)")
    table = DeltaTable(table_uri(shop.settings, "interactions"))
    rows = EventRows(table, noon(FIRST + 2 * DAY))
    assert mergeable(earlier, rows, everything) is earlier
    version = ingested.interactions_version
    for unfit, limits, reason in (
        (None, everything, "no earlier"),
        (earlier, few, "leave events out"),
        (replace(earlier, has_all=False), everything, "leave events out"),
        (replace(earlier, interactions_id="other"), everything, "made anew"),
        (replace(earlier, end=noon(FIRST + 9 * DAY)), everything, "later run date"),
        (replace(earlier, end=None), everything, "later run date"),
        (replace(earlier, interactions_version=version + 1), everything, "later version"),
    ):
        with pytest.raises(NotIncrementalError, match=reason):
            mergeable(unfit, rows, limits)
    limited = shop.settings.model_copy(update={"prepare": few})
    assert not prepare(limited, FIRST + DAY, ingested, earlier).has_all


def test_the_stage_merges_into_what_was_prepared_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(settings_in(tmp_path), Random(1))
    shop.files["a.parquet"] = [*shop.rows(30, FIRST), *shop.rows(3, FIRST - DAY)]
    shop.write()
    settings = shop.settings

    def said(day: date, *, force: bool = False) -> str:
        caplog.clear()
        with caplog.at_level("INFO", logger="pipeline"):
            run_stage(settings, day, Ingest)
            run_stage(settings, day, Prepare, force=force)
        return caplog.text

    assert "from the beginning: there are no earlier histories" in said(FIRST)
    assert "histories" not in said(FIRST)
    shop.files["b.parquet"] = shop.rows(9, FIRST)
    shop.write()
    assert "new events into the histories of" in said(FIRST)  # those of the same run date
    assert "run_date=2026-06-01" in said(FIRST + 2 * DAY)
    assert "from the beginning" in said(FIRST + 2 * DAY, force=True)
    assert "from the beginning" in said(FIRST - DAY)  # later ones are of no use


def test_a_killed_run_is_done_again(tmp_path: Path) -> None:
    shop, earlier, ingested = two_nights(tmp_path)
    expected = from_the_beginning(shop.settings, FIRST + DAY, ingested, tmp_path / "beside")
    given = tmp_path / "given.pickle"
    given.write_bytes(pickle.dumps((shop.settings, FIRST + DAY, ingested, earlier)))
    script = """
        import os, pickle, signal, sys
        from pathlib import Path
        import pipeline.data.incremental as incremental
        from tests.helpers.stages import prepare
        write = incremental.BucketFile.add
        def add(file, histories):
            write(file, histories)
            if file.path.name > "8":
                os.kill(os.getpid(), signal.SIGKILL)
        incremental.BucketFile.add = add
        prepare(*pickle.loads(Path(sys.argv[1]).read_bytes()))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(given)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    folder = shop.settings.work_dir / f"run_date={FIRST + DAY}"
    assert (folder / ".prepared" / "sequences" / "8.arrow").exists()
    assert not (folder / "prepared").exists()
    check_same(prepare(shop.settings, FIRST + DAY, ingested, earlier), expected)
    assert [path.name for path in folder.iterdir()] == ["prepared"]


def test_a_prepared_folder_of_an_earlier_version_counts_as_not_done(tmp_path: Path) -> None:
    shop, _, _ = two_nights(tmp_path)
    run_stage(shop.settings, FIRST, Ingest)
    done = run_stage(shop.settings, FIRST, Prepare)
    assert run_stage(shop.settings, FIRST, Prepare).reused
    shutil.rmtree(done.result.folder / "sequences")
    (done.result.folder / "sequences.parquet").write_bytes(b"")
    again = run_stage(shop.settings, FIRST, Prepare)
    assert not again.reused
    assert again.result == done.result
    assert not (done.result.folder / "sequences.parquet").exists()
