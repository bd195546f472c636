"""Kills, damage and races: every command ends right, or in one line with good data untouched.

``-m slow -s`` runs all cases, the killed and racing commands in new interpreters, and prints a
table. By default a small sample runs, forked from a warm process. FAULT_SEED chooses the moments
and the damages, FAULT_WORKERS the number of cases at a time.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest

from tests.end_to_end.faults.full_disks import check_mounts, run_out_of_room
from tests.end_to_end.faults.kills import kill_and_run_again
from tests.end_to_end.faults.races import race
from tests.end_to_end.faults.spoiling import (
    bundle_files,
    damaged_bundle,
    damaged_log,
    damaged_work,
    record_files,
    scratch_files,
)
from tests.end_to_end.faults.verdicts import Report, Verdict, wrong
from tests.end_to_end.faults.world import Undisturbed, World

SEED = os.environ.get("FAULT_SEED", "13")

Case = Any  # what a kind of fault needs to know: a number, or a file and a damage
Cases = Callable[[World, Random], Sequence[Case]]
Run = Callable[[World, Case, Random], Verdict]


def numbers(count: int) -> Cases:
    return lambda world, chance: range(count)


def kill(*names: str) -> Run:
    """Kills of undisturbed runs, which are attributes of a world, in turn."""

    def run(world: World, number: int, chance: Random) -> Verdict:
        undisturbed: Undisturbed = getattr(world, names[number % len(names)])
        return kill_and_run_again(world, undisturbed, number // len(names), chance)

    return run


def disks(count: int) -> Cases:
    def find(world: World, chance: Random) -> Sequence[Case]:
        check_mounts(world.folder)
        return range(count)

    return find


def fill(*disks_and_names: tuple[str, str]) -> Run:
    """Undisturbed runs, in turn, each on a disk that is too small."""

    def run(world: World, number: int, chance: Random) -> Verdict:
        disk, name = disks_and_names[number % len(disks_and_names)]
        undisturbed: Undisturbed = getattr(world, name)
        return run_out_of_room(world, undisturbed, disk, chance)

    return run


def race_for(name: str) -> Run:
    """Races of two machines for what an undisturbed run did."""
    return lambda world, _, chance: race(world, getattr(world, name), chance)


# Of each kind: all its cases, how many of them make the sample, and what runs one.
KINDS: dict[str, tuple[Cases, int, Run]] = {
    "kill first load": (numbers(30), 1, kill("first_load")),
    "kill increment": (numbers(30), 1, kill("second_ingest")),
    "kill corrections": (numbers(30), 0, kill("corrections")),
    "kill merged prepare": (numbers(30), 1, kill("merged_prepare")),
    "kill publish": (numbers(15), 1, kill("publish")),
    "kill fearec-score": (numbers(15), 1, kill("scoring")),
    "kill nightly": (numbers(15), 1, kill("disturbed_night")),
    "full warehouse": (
        disks(30),
        1,
        fill(("warehouse", "first_load"), ("warehouse", "second_ingest")),
    ),
    "full work folder": (disks(15), 1, fill(("work", "merged_prepare"))),
    "full scratch folder": (
        disks(12),
        0,
        fill(("scratch", "spilling_ingest"), ("scratch", "spilling_prepare")),
    ),
    "full disk at night": (
        disks(16),
        0,
        fill(("warehouse", "disturbed_night"), ("work", "disturbed_night")),
    ),
    "full output folder": (disks(10), 1, fill(("out", "scoring"))),
    "damage logs": (numbers(100), 3, damaged_log),
    "damage bundle": (bundle_files, 2, damaged_bundle),
    "damage scratch": (scratch_files, 1, damaged_work),
    "damage records": (record_files, 1, damaged_work),
    "race same date": (numbers(10), 1, race_for("disturbed_night")),
    "race first ingest": (numbers(10), 1, race_for("first_ingest")),
    "race increment": (numbers(10), 0, race_for("second_ingest")),
}


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    report = Report(SEED)
    yield report
    print(f"\n{report}")


def try_all(kind: str, worlds: list[World], report: Report, *, sampled: bool) -> None:
    find, few, run = KINDS[kind]
    chosen = Random(f"{SEED} {kind}")
    cases = find(worlds[0], chosen)
    if sampled:
        cases = chosen.sample(cases, few)
    free: SimpleQueue[World] = SimpleQueue()
    for world in worlds:
        free.put(world)

    def judge(case: Case) -> Verdict:
        world = free.get()
        try:
            return run(world, case, Random(f"{SEED} {kind} {case}"))
        except Exception as error:
            return wrong(repr(error))
        finally:
            free.put(world)

    with ThreadPoolExecutor(len(worlds)) as pool:
        for case, verdict in zip(cases, pool.map(judge, cases), strict=True):
            report.add(kind, str(case), verdict)
    assert report.wrong_of(kind) == []


@pytest.fixture(scope="module")
def few_worlds(tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    return [World(tmp_path_factory.mktemp("world"), small=True)]


@pytest.mark.parametrize("kind", [kind for kind, (_, few, _) in KINDS.items() if few])
def test_a_sample_of_faults_ends_right_or_in_one_line(
    kind: str, few_worlds: list[World], report: Report
) -> None:
    try_all(kind, few_worlds, report, sampled=True)


@pytest.fixture(scope="module")
def many_worlds(tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    count = int(os.environ.get("FAULT_WORKERS", os.cpu_count() or 1))
    worlds = [World(tmp_path_factory.mktemp("world"), small=False) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda world: world.damaged_states, worlds))
    return worlds


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_all_faults_end_right_or_in_one_line(
    kind: str, many_worlds: list[World], report: Report
) -> None:
    """Some ten minutes on two cores."""
    try_all(kind, many_worlds, report, sampled=False)
