"""Sorting in ranges of users writes what one sort does, byte for byte, here and on a Ray cluster.

The cluster's nodes are processes on this machine.
"""

import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

import pipeline.data.ray_sort
from pipeline import schema
from pipeline.config.engine_section import EngineSettings
from pipeline.config.settings import Settings
from pipeline.data import history_sort, sequence_files
from pipeline.data.user_ranges import EVERYBODY, UserRange, user_ranges
from pipeline.engines.base import WorkerDiedError
from pipeline.errors import MemoryShortError
from pipeline.results import Ingested, Prepared
from pipeline.runner.nightly import run_stage
from pipeline.runner.stages import Ingest, Prepare
from pipeline.storage.prepared_folder import prepared_files
from tests.helpers.examples import few_and_many
from tests.helpers.ray_workers import pids, until
from tests.helpers.slow_sort import MakeSlowSorter
from tests.helpers.stages import ingest, prepare

TODAY = date(2026, 6, 10)
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
ON_RAY = EngineSettings(kind="ray")

Event = tuple[Any, str, int, str | None]  # user, item, hours before noon, type


def settings_in(folder: Path, *, typed: bool = False, **sections: Any) -> Settings:
    return Settings(
        warehouse=str(folder / "a house"),
        work_dir=folder / "work",
        logs={"path": str(folder / "logs"), "event_type": schema.EVENT_TYPE if typed else None},
        **sections,
    )


def some_events(*, texts: bool = False) -> list[list[Event]]:
    """Three files of few hours, so that many of a user's events are of one time, in all files."""
    random = Random(7)

    def event() -> Event:
        user: Any = int(random.random() ** 2 * 60)
        if texts:
            user = f"Ünal {user} 😀"[user % 3 :]
        kind = random.choice(["click", "cart", "buy", None])
        return user, f"item{random.randrange(30)}", random.randrange(60), kind

    return [[event() for _ in range(400)] for _ in range(3)]


def written(settings: Settings, files: list[list[Event]]) -> Ingested:
    folder = Path(settings.logs.path)
    folder.mkdir(parents=True)
    for name, rows in zip("bac", files, strict=False):
        users, items, hours, kinds = zip(*rows, strict=True)
        times = [NOON - timedelta(hours=each) for each in hours]
        arrays = [
            pa.array(users), pa.array(items), pa.array(times, schema.TIME),
            pa.array(kinds, pa.string()),
        ]  # fmt: skip
        names = [schema.USER_ID, schema.ITEM_ID, schema.TIMESTAMP, schema.EVENT_TYPE]
        pq.write_table(pa.table(arrays, names), folder / f"{name}.parquet")
    return ingest(settings, TODAY)


def outcome(prepared: Prepared) -> tuple[Prepared, dict[str, bytes]]:
    """Everything about it, and the content of all files."""
    files = prepared_files(prepared.folder)
    return prepared, {path.name: path.read_bytes() for path in files}


def pickled(given: Any) -> Any:
    return pickle.loads(pickle.dumps(given))


@dataclass(frozen=True)
class Here:
    """An engine of one worker in this process, which counts for several."""

    worker: Any
    count: int

    def results(self, parts: Any, progress: Any) -> Iterator[Any]:
        for part in parts:
            yield pickled(self.worker(pickled(part), progress))


def let_work_here(patch: pytest.MonkeyPatch, count: int) -> None:
    """Let this process do what so many workers on a cluster would."""

    @contextmanager
    def opened(make_worker: Any, settings: EngineSettings) -> Iterator[Here]:
        yield Here(pickled(make_worker)(0), count)

    patch.setattr("pipeline.engines.ray_cluster.connected", lambda engine: nullcontext())
    patch.setattr(pipeline.data.ray_sort, "opened_ray_engine", opened)


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "integers": ({}, False),
    "texts and types": ({"typed": True}, True),
    "history in a time zone": (
        {"prepare": {"history_days": 2}, "time_zone": "Pacific/Auckland"}, False,
    ),
    "limits": (
        {
            "typed": True,
            "prepare": {
                "user_inter_num_interval": "[8,inf)",
                "item_inter_num_interval": "[32,inf)",
            },
        },
        True,
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, Ingested]:
    sections, texts = CASES[request.param]
    settings = settings_in(tmp_path, **sections)
    return settings, written(settings, some_events(texts=texts))


def with_engine(settings: Settings, engine: EngineSettings) -> Settings:
    return settings.model_copy(update={"engine": engine})


def test_any_number_of_tasks_gives_the_same_bytes(
    case: tuple[Settings, Ingested], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, ingested = case
    expected = outcome(prepare(settings, TODAY, ingested))
    assert expected[0].n_interactions > 200
    if settings.prepare.user_inter_num_interval:
        assert expected[0].left_out_users
        assert expected[0].left_out_items
    for count in (1, 3, 16):
        let_work_here(monkeypatch, count)
        assert outcome(prepare(with_engine(settings, ON_RAY), TODAY, ingested)) == expected


events = st.tuples(
    st.integers(0, 6), st.sampled_from(["x", "y", "z"]), st.integers(0, 3), st.none()
)


def check_small_batches_are_cut_alike(
    files: list[list[Event]], count: int, batch_events: int, batch_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_files, "_BATCH_EVENTS", batch_events)
        patch.setattr(history_sort, "_BATCH_ROWS", batch_rows)
        settings = settings_in(Path(folder))
        ingested = written(settings, files)
        expected = outcome(prepare(settings, TODAY, ingested))
        let_work_here(patch, count)
        assert outcome(prepare(with_engine(settings, ON_RAY), TODAY, ingested)) == expected


test_small_batches_are_cut_alike, test_many_small_batches_are_cut_alike = few_and_many(
    check_small_batches_are_cut_alike,
    3,
    9,
    st.lists(st.lists(events, min_size=1, max_size=20), min_size=1, max_size=3),
    st.integers(2, 20),
    st.integers(1, 6),
    st.integers(1, 6),
)


def test_ranges_hold_about_as_many_events_each_and_every_user_once() -> None:
    users = pa.array([number // 10 for number in range(1000)])
    batches = [
        pa.record_batch([users.slice(begin, 100)], ["user_id"]) for begin in range(0, 1000, 100)
    ]
    assert user_ranges(batches, 1000, 1) == [EVERYBODY]
    four = user_ranges(batches, 1000, 4)
    assert four == [UserRange(None, 25), UserRange(25, 50), UserRange(50, 75), UserRange(75, None)]
    most = [pa.record_batch([pa.array(["a", "b", "b", "b", "b", "b", "c"])], ["user_id"])]
    assert user_ranges(most, 7, 4) == [UserRange(None, "b"), UserRange("b", None)]
    one = [pa.record_batch([pa.array([5, 5])], ["user_id"])]
    assert user_ranges(one, 2, 2) == [EVERYBODY]


@pytest.mark.parametrize("away", ["missing", "damaged"])
def test_where_workers_do_not_reach_the_warehouse_the_driver_sorts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    sections, texts = CASES["limits"]
    settings = settings_in(tmp_path, **sections)
    ingested = written(settings, some_events(texts=texts))
    expected = outcome(prepare(settings, TODAY, ingested))
    place = tmp_path / away
    if away == "damaged":
        (place / "_delta_log").mkdir(parents=True)
        (place / "_delta_log" / f"{0:020}.json").write_text("{")
    let_work_here(monkeypatch, 2)
    look_elsewhere(monkeypatch, place)
    assert outcome(prepare(with_engine(settings, ON_RAY), TODAY, ingested)) == expected
    check_warned(caplog)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_where_a_clusters_workers_do_not_reach_the_warehouse_the_driver_sorts(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_in(tmp_path)
    ingested = written(settings, some_events())
    expected = outcome(prepare(settings, TODAY, ingested))
    look_elsewhere(monkeypatch, tmp_path / "missing")
    engine = EngineSettings(kind="ray", address=cluster.address)
    assert outcome(prepare(with_engine(settings, engine), TODAY, ingested)) == expected
    check_warned(caplog)


def look_elsewhere(patch: pytest.MonkeyPatch, place: Path) -> None:
    """Let workers look for the table in another place."""
    unpatched = pipeline.data.ray_sort.EventSource.of
    elsewhere = staticmethod(lambda rows: replace(unpatched(rows), place=str(place)))
    patch.setattr(pipeline.data.ray_sort.EventSource, "of", elsewhere)


def check_warned(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert "sorting here" in warning
    assert len(warning.splitlines()) == 1


def test_a_range_that_workers_are_lost_by_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, engine=ON_RAY)
    ingested = written(settings, some_events())
    let_work_here(monkeypatch, 2)

    def lost(*_: object) -> Iterator[Any]:
        raise WorkerDiedError("3 workers were lost by one part: its memory ran out")
        yield

    monkeypatch.setattr(Here, "results", lost)
    with pytest.raises(MemoryShortError, match=r"could not be sorted.*3 workers.*engine.num_cpus"):
        prepare(settings, TODAY, ingested)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_bytes_on_a_cluster_are_those_of_one_machine(
    cluster: Any, case: tuple[Settings, Ingested]
) -> None:
    settings, ingested = case
    expected = outcome(prepare(settings, TODAY, ingested))
    engine = EngineSettings(kind="ray", address=cluster.address)
    assert outcome(prepare(with_engine(settings, engine), TODAY, ingested)) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_there_may_be_more_workers_than_users(cluster: Any, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    ingested = written(settings, [[(5, "x", 1, None), (5, "y", 2, None)]])
    expected = outcome(prepare(settings, TODAY, ingested))
    engine = EngineSettings(kind="ray", address=cluster.address, min_workers=2)
    assert outcome(prepare(with_engine(settings, engine), TODAY, ingested)) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_killed_worker_costs_its_range_only(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, noted = settings_in(tmp_path), tmp_path / "noted"
    noted.mkdir()
    ingested = written(settings, some_events())
    expected = outcome(prepare(settings, TODAY, ingested))
    monkeypatch.setattr(pipeline.data.ray_sort, "RangeSorter", MakeSlowSorter(noted))

    def kill_one() -> None:
        until(lambda: len(pids(noted)) == 2)
        os.kill(min(pids(noted)), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    engine = EngineSettings(kind="ray", address=cluster.address, min_workers=2)
    try:
        assert outcome(prepare(with_engine(settings, engine), TODAY, ingested)) == expected
    finally:
        killer.join()
    begun = [path.name.partition("-")[2] for path in noted.iterdir()]
    assert len(begun) == 3  # one range twice
    assert len(set(begun)) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_stage_sorts_on_the_cluster_and_is_not_done_again_elsewhere(
    cluster: Any, tmp_path: Path
) -> None:
    engine = EngineSettings(kind="ray", address=cluster.address, max_workers=1)
    settings = settings_in(tmp_path, engine=engine)
    written(settings, some_events())
    run_stage(settings, TODAY, Ingest)
    assert not run_stage(settings, TODAY, Prepare).reused
    local = settings_in(tmp_path)
    assert run_stage(local, TODAY, Prepare).reused
