"""Engines: results in the order of the parts, whoever computes them."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.base import Engine, SameProcess, WorkerDiedError, prefetch
from pipeline.engines.process_pool import ProcessPool
from tests.helpers.engine_workers import make_no_worker, make_worker

PARTS = ["a", "bb", "", "cccc", "d", "ee", "f"]

Results = list[tuple[int, int, str]]


def run(engine: Engine[str, Any], parts: list[str]) -> tuple[Results, list[int]]:
    done: list[int] = []
    return list(engine.results(parts, done.append)), done


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_the_order_of_the_parts(count: int) -> None:
    engine: Engine[str, Any] = (
        ProcessPool(make_worker, count) if count else SameProcess(make_worker(0))
    )
    found, done = run(engine, PARTS)
    assert [text for _, _, text in found] == [part.upper() for part in PARTS]
    assert done == [len(part) for part in PARTS]
    assert run(engine, []) == ([], [])


def test_each_process_makes_one_worker_with_an_index_of_its_own() -> None:
    found, _ = run(ProcessPool(make_worker, 2), PARTS)
    indices = {process: index for index, process, _ in found}
    assert os.getpid() not in indices
    assert len(set(indices.values())) == len(indices)
    assert {(index, process) for index, process, _ in found} == {
        (index, process) for process, index in indices.items()
    }
    assert set(indices.values()) <= {0, 1}


def test_an_engine_reads_parts_only_as_far_ahead_as_it_works() -> None:
    read: list[str] = []

    def parts() -> Iterator[str]:
        for part in PARTS:
            read.append(part)
            yield part

    for engine, ahead in ((SameProcess(make_worker(0)), 0), (ProcessPool(make_worker, 1), 1)):
        read.clear()
        results = engine.results(parts(), lambda done: None)
        next(results)
        assert len(read) == 1 + ahead
        results.close()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_workers_error_comes_where_its_result_would(count: int) -> None:
    engine: Engine[str, Any] = (
        ProcessPool(make_worker, count) if count else SameProcess(make_worker(0))
    )
    results = engine.results(["a", "error", "b"], lambda done: None)
    assert next(results)[2] == "A"
    with pytest.raises(ValueError, match="a bad part"):
        next(results)


@pytest.mark.timeout(60)
def test_a_worker_that_cannot_be_made_is_an_error_however_many_parts_wait() -> None:
    with pytest.raises(ValueError, match="no device 0"):
        run(ProcessPool(make_no_worker, 1), PARTS)


def test_a_process_that_dies_is_an_error_and_earlier_results_are_kept() -> None:
    others = set(multiprocessing.active_children())

    def parts() -> Iterator[str]:
        yield from ("a", "exit")
        while (
            set(multiprocessing.active_children()) - others
        ):  # so that the pool is broken before the next
            time.sleep(0.01)
        time.sleep(0.2)
        yield "b"

    results = ProcessPool(make_worker, 1).results(parts(), lambda done: None)
    assert next(results)[2] == "A"
    with pytest.raises(WorkerDiedError, match="memory"):
        next(results)
    with pytest.raises(WorkerDiedError):
        list(ProcessPool(os._exit, 1).results(["a"], lambda done: None))  # with its index


WAITING = """
import time
from pipeline.engines.process_pool import ProcessPool

def make(index):
    print("begun", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(ProcessPool(make, 1).results(["part"], print))
"""


def test_a_killed_run_leaves_no_process_on_a_device(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    command = [sys.executable, str(tmp_path / "waiting.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        parent.communicate(timeout=30)  # ends when nobody holds the other end of the pipe


def test_prefetching_makes_the_next_item_while_the_caller_has_the_last() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in prefetch(items()):
        for event in made[: number + 2]:
            assert event.wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])


def test_prefetching_raises_an_error_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    prefetched = prefetch(items())
    assert next(prefetched) == 1
    with pytest.raises(ValueError, match="no more"):
        next(prefetched)
    assert list(prefetch(iter([]))) == []
