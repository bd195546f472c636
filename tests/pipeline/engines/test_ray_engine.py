"""The engine on a Ray cluster of two nodes on this machine: order, errors, losses, and its end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.engine_section import EngineSettings
from pipeline.engines import ray_actors, ray_place
from pipeline.engines.base import WorkerDiedError
from pipeline.engines.ray_engine import opened_ray_engine
from pipeline.errors import ConfigError
from pipeline.version import fearec_version
from tests.helpers.ray_workers import (
    MakeNoting,
    ended_within,
    exit_instead,
    make_no_worker,
    parent,
    pids,
    running,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PARTS = ["a", "bb", "", "cccc", "d", "ee", "f"]


def results(
    cluster: Any, make_worker: Callable[[int], Any], parts: Any = PARTS, **settings: Any
) -> Iterator[Any]:
    with opened_ray_engine(
        make_worker, EngineSettings(kind="ray", address=cluster.address, **settings)
    ) as engine:
        assert engine.count == settings.get("max_workers", len(cluster.list_all_nodes()))
        yield from engine.results(parts, lambda done: None)


def texts(found: Iterator[Any]) -> list[str]:
    return [text for _, text in found]


def upper(parts: list[str]) -> list[str]:
    return [part.upper() for part in parts]


def test_results_come_in_the_order_of_the_parts_from_one_worker_per_process(
    cluster: Any, tmp_path: Path
) -> None:
    done: list[int] = []
    settings = EngineSettings(kind="ray", address=cluster.address, min_workers=2)
    with opened_ray_engine(MakeNoting(tmp_path, 0.3), settings) as engine:
        assert engine.count == 2
        found = list(engine.results(PARTS, done.append))
        assert texts(iter(found)) == upper(PARTS)
        assert done == [len(part) for part in PARTS]
        workers = {process for process, _ in found}
        assert len(workers) == 2
        assert os.getpid() not in workers
        assert ended_within(workers, 20)
        assert list(engine.results([], done.append)) == []


def test_a_slow_part_holds_no_more_results_than_there_are_workers(
    cluster: Any, tmp_path: Path
) -> None:
    read: list[str] = []

    def parts() -> Iterator[str]:
        for number in range(40):
            read.append(str(number))
            yield str(number)

    found = results(cluster, MakeNoting(tmp_path), parts())
    assert next(found)[1] == "0"
    assert len(read) <= 1 + 2 * 2 + 1
    assert texts(found) == [str(number) for number in range(1, 40)]


def test_a_workers_error_comes_where_its_result_would(cluster: Any, tmp_path: Path) -> None:
    found = results(cluster, MakeNoting(tmp_path), ["a", "error", "b"])
    assert next(found)[1] == "A"
    with pytest.raises(ValueError, match="a bad part"):
        next(found)
    with pytest.raises(ValueError, match="no device"):
        list(results(cluster, make_no_worker, max_workers=1))


@pytest.mark.parametrize("misfortune", ["exit", "memory"])
def test_a_part_whose_worker_dies_is_given_to_another(
    cluster: Any, tmp_path: Path, misfortune: str
) -> None:
    parts = ["a", f"{misfortune}-once", "b", "c"]
    assert texts(results(cluster, MakeNoting(tmp_path), parts)) == upper(parts)
    assert len(list(tmp_path.glob(f"*-{misfortune}-once"))) == 2


def test_a_part_that_every_worker_dies_of_is_an_error_in_its_turn(
    cluster: Any, tmp_path: Path
) -> None:
    found = results(cluster, MakeNoting(tmp_path), ["a", "memory", "b"])
    assert next(found)[1] == "A"
    with pytest.raises(WorkerDiedError, match="3 workers were lost by one part: its memory ran"):
        next(found)
    assert len(list(tmp_path.glob("*-memory"))) == 3
    assert ended_within(pids(tmp_path), 20)


def test_workers_that_die_as_they_start_are_an_error(cluster: Any) -> None:
    with pytest.raises(WorkerDiedError, match="lost as they start"):
        list(results(cluster, exit_instead, max_workers=1))


def test_a_killed_process_and_a_removed_node_cost_no_part(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    parts = [f"part{number}" for number in range(24)]

    def misfortunes() -> None:
        until(lambda: len(pids(tmp_path)) == 3)
        raylet = node.all_processes["raylet"][0].process.pid
        (there,) = (each for each in pids(tmp_path) if parent(each) == raylet)
        os.kill(min(pids(tmp_path) - {there}), signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=misfortunes)
    thread.start()
    try:
        found = results(cluster, MakeNoting(tmp_path, 1), parts, min_workers=3)
        assert texts(found) == upper(parts)
    finally:
        thread.join()
        if node in cluster.worker_nodes:
            cluster.remove_node(node)
        cluster.wait_for_nodes()  # until Ray has noticed
    assert len(list(tmp_path.iterdir())) >= len(parts) + 2  # those lost were begun twice
    assert ended_within(pids(tmp_path), 20)


def test_closing_the_results_ends_the_workers_at_once(cluster: Any, tmp_path: Path) -> None:
    found = results(cluster, MakeNoting(tmp_path, 1), [*PARTS, *PARTS])
    next(found)
    workers = pids(tmp_path)
    assert running(workers)
    found.close()  # type: ignore[attr-defined]
    assert ended_within(workers, 20)


class Unreadable:
    """What another version has no class for."""

    def __reduce__(self) -> Any:
        return getattr, (ray_place, "OfAnotherVersion")


def test_nodes_with_another_version_are_one_line(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_actors, "fearec_version", lambda: "9.9")
    here = fearec_version()
    with pytest.raises(ConfigError, match=rf"another version of fearec.*9\.9.*found {here}"):
        list(results(cluster, Unreadable(), max_workers=1))  # type: ignore[arg-type]


def test_a_worker_that_cannot_fetch_what_it_is_made_of_is_lost() -> None:
    import ray

    def get(ref: Any) -> Any:
        cause = ray.exceptions.ObjectFetchTimedOutError("ref", "owner", "stack")
        raise ray.exceptions.RayTaskError("start", "traceback", cause)

    cut_off: Any = SimpleNamespace(exceptions=ray.exceptions, get=get)
    with pytest.raises(ray_place.WorkerLostError, match="its node is gone"):
        ray_place.outcome(cut_off, None)


def test_a_cluster_without_room_is_one_line(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_place, "_PATIENCE", 2)
    with pytest.raises(ConfigError, match=r"no worker has started.*1 workers of 8 cores.*2 cores"):
        list(results(cluster, MakeNoting(tmp_path), num_cpus=8, max_workers=1))
