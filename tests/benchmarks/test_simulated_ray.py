"""Simulated runs of the Ray engine whose times can be worked out by hand."""

from itertools import chain, repeat
from math import inf

import pytest

from tests.benchmarks.simulated_ray import Driver, Workers, simulate

FREE = Driver()


@pytest.mark.parametrize("count", [1, 2, 4, 16, 64])
def test_equal_parts_keep_all_workers_busy(count: int) -> None:
    run = simulate([10.0] * 64, Workers(count), FREE)
    assert run.wall == 640 / count
    assert run.efficiency == 1
    assert run.bound == "workers"
    assert sum(run.shares.values()) == 0


def test_a_slow_worker_gets_fewer_parts() -> None:
    # In 40 seconds three workers do four parts each, and the one of half the speed two.
    run = simulate([10.0] * 14, Workers(4, slowdowns=chain([2.0], repeat(1.0))), FREE)
    assert run.wall == 40
    assert run.efficiency == pytest.approx(140 / 160)
    assert run.shares["slow workers"] == pytest.approx(20 / 160)
    assert run.bound == "slow workers"


def test_the_last_part_is_waited_for() -> None:
    run = simulate([10.0] * 5, Workers(4), FREE)
    assert run.wall == 20
    assert run.efficiency == pytest.approx(50 / 80)
    assert run.shares["last part"] == pytest.approx(30 / 80)
    assert run.bound == "last part"


def test_a_long_part_holds_back_those_behind_it() -> None:
    # While one worker is at the first part, the other one does the two that may wait for it and the
    # one that was read ahead; then two do the other six.
    run = simulate([100.0] + [1.0] * 9, Workers(2), FREE)
    assert run.wall == 103
    assert run.shares["order"] == pytest.approx(97 / 206)
    assert run.bound == "order"


@pytest.mark.parametrize(
    ("driver", "wall"),
    [
        (Driver(read=5), 10 * 5 + 10),  # the last part is read after 50 seconds, then computed
        (Driver(send=5), 10 * 5 + 10),
        (Driver(write=5), 10 + 10 * 5),  # the first is computed after 10 seconds, then all written
    ],
)
def test_a_driver_is_the_limit_whatever_the_number_of_workers(driver: Driver, wall: float) -> None:
    for count in (16, 64):
        run = simulate([10.0] * 10, Workers(count), driver)
        assert run.wall == wall
        assert run.efficiency == pytest.approx(100 / count / wall)
        assert run.bound == "driver"
        assert run.efficiency + sum(run.shares.values()) == pytest.approx(1)


def test_a_lost_worker_costs_its_part_and_the_start_of_another() -> None:
    # Two workers have done four of eight parts when one is lost, 5 seconds into its third. The
    # other does the four that are left until 60; the replacement is there at 55 and finds none.
    workers = Workers(2, lifetimes=chain([25.0], repeat(inf)), replacement=30.0)
    run = simulate([10.0] * 8, workers, FREE)
    assert run.wall == 60
    assert run.n_lost == 1
    assert run.efficiency == pytest.approx(80 / 120)
    assert run.shares["losses"] == pytest.approx((5 + 30) / 120)
    assert run.shares["last part"] == pytest.approx(5 / 120)
    assert run.bound == "losses"


def test_workers_compute_when_they_have_started() -> None:
    run = simulate([10.0] * 8, Workers(2, start=20.0), FREE)
    assert run.wall == 60
    assert run.shares["start"] == pytest.approx(40 / 120)


def test_three_losses_of_one_part_end_the_run() -> None:
    run = simulate([10.0] * 8, Workers(2, lifetimes=repeat(5.0)), FREE)
    assert run.failure == "3 workers were lost by one part: its node is gone"
    assert run.wall == 15
