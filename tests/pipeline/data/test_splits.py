"""No split leaks the future, and none loses an interaction."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from torch import Tensor

from model.training.histories import EventHistories, expand_ranges
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.data.prepared import events_before, read_histories
from pipeline.data.splits import Split, leave_one_out, split_histories
from pipeline.errors import InputError
from pipeline.results import Prepared
from tests.helpers.prepared_folders import write_prepared

DAY = date(2026, 3, 31)
END = datetime(2026, 4, 1, tzinfo=UTC)
MINUTES = 20 * 24 * 60

# Each user's events, in minutes before the end of the run date; several may fall together.
when = st.lists(st.integers(1, MINUTES), min_size=1, max_size=7).map(
    lambda minutes: [END - timedelta(minutes=m) for m in sorted(minutes, reverse=True)]
)
users = st.lists(when, min_size=1, max_size=12)
days = st.integers(1, 8)


def chosen(
    split: str = "time", test_days: int = 7, valid_days: int = 7, zone: str = "UTC"
) -> Settings:
    evaluate = {"split": split, "test_days": test_days, "valid_days": valid_days}
    return Settings(evaluate=evaluate, time_zone=zone)


def flat(times: Sequence[Sequence[datetime]]) -> list[datetime]:
    return [time for row in times for time in row]


def firsts(histories: EventHistories) -> list[int]:
    return histories.offsets[:-1][histories.offsets.diff() > 0].tolist()


def in_validation(split: Split) -> list[int]:
    return expand_ranges(split.valid_from, split.test_from - split.valid_from)[1].tolist()


def in_test(split: Split) -> list[int]:
    return split.in_test.nonzero().squeeze(1).tolist()


def split_as_asked(settings: Settings, day: date, prepared: Prepared) -> Split:
    held_out = held_out_events(settings, day)
    return split_histories(read_histories(prepared.folder), held_out, prepared)


def window(settings: Settings) -> tuple[datetime | None, datetime | None]:
    held_out = held_out_events(settings, DAY)
    return held_out.valid_from, held_out.test_from


def split_by_time(times: Sequence[Sequence[datetime]], settings: Settings) -> Split:
    with TemporaryDirectory() as folder:
        prepared = write_prepared(
            Path(folder) / "prepared", [[*range(len(t))] for t in times], times
        )
        return split_as_asked(settings, DAY, prepared)


def assert_whole(split: Split) -> None:
    """Every interaction is in exactly one of train, validation and test, or its user's first."""
    train, valid, test = split.train.tolist(), in_validation(split), in_test(split)
    held = {*valid, *test}
    alone = [position for position in firsts(split.histories) if position not in held]
    assert sorted(train + valid + test + alone) == [*range(len(split.histories.items))]


@given(users, days, days)
@tuned(max_examples=60)
def test_a_time_split_cuts_everybody_at_the_same_instants(
    times: list[list[datetime]], test_days: int, valid_days: int
) -> None:
    settings = chosen(test_days=test_days, valid_days=valid_days)
    test_from = END - timedelta(days=test_days)
    valid_from = test_from - timedelta(days=valid_days)
    assert window(settings) == (valid_from, test_from)
    every = flat(times)
    if max(every) < test_from:
        with pytest.raises(InputError, match="no event in the days of the test") as caught:
            split_by_time(times, settings)
        enough = int(caught.value.remedy.split(" or more")[0].split(" = ")[1])
        assert len(split_by_time(times, chosen(test_days=enough, valid_days=valid_days)).tested)
        return
    split = split_by_time(times, settings)
    assert_whole(split)
    assert in_test(split) == [at for at, time in enumerate(every) if time >= test_from]
    assert in_validation(split) == [
        at for at, time in enumerate(every) if valid_from <= time < test_from
    ]
    # Targets of training, and all before them, lie before either window.
    assert all(every[at] < valid_from for at in split.train.tolist())
    # Validation asks for one item a user, the first of the window, with something before it.
    for at in split.valid.tolist():
        assert valid_from <= every[at] < test_from
        assert every[at - 1] < valid_from
        assert at not in firsts(split.histories)


@given(users, days, days)
@tuned(max_examples=60)
def test_training_is_not_even_given_the_test(
    times: list[list[datetime]], test_days: int, valid_days: int
) -> None:
    settings = chosen(test_days=test_days, valid_days=valid_days)
    test_from = END - timedelta(days=test_days)
    if max(flat(times)) < test_from:
        return
    split = split_by_time(times, settings)
    known = split.without_test()
    earlier = [[time for time in row if time < test_from] for row in times]
    assert known.histories.offsets.diff().tolist() == [len(row) for row in earlier]
    assert len(known.histories.items) == len(flat(earlier))
    assert not known.in_test.any()
    # The same samples as before, under new positions.
    for name in ("train", "valid"):
        before, after = getattr(split, name), getattr(known, name)
        assert torch.equal(
            split.histories.items[before.long()], known.histories.items[after.long()]
        )
        for one, other in zip(windows(split, before), windows(known, after), strict=True):
            assert torch.equal(one, other)


def windows(split: Split, positions: Tensor) -> tuple[Tensor, Tensor]:
    if not len(positions):
        return positions, positions
    return split.histories.windows(positions, 5)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=15))
def test_leave_one_out_takes_the_last_two(counts: list[int]) -> None:
    offsets = torch.tensor([0, *counts]).cumsum(0)
    histories = EventHistories(torch.arange(int(offsets[-1]), dtype=torch.int32), offsets)
    split = leave_one_out(histories)
    assert_whole(split)
    ends = offsets[1:].tolist()
    assert in_test(split) == [end - 1 for end, n in zip(ends, counts, strict=True) if n >= 2]
    expected = [end - 2 for end, n in zip(ends, counts, strict=True) if n >= 3]
    assert split.valid.tolist() == in_validation(split) == expected
    assert split.tested.tolist() == [user for user, n in enumerate(counts) if n >= 2]
    assert split.without_test().histories.offsets.diff().tolist() == [n - (n >= 2) for n in counts]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=10))
def test_the_refit_trains_on_everything(counts: list[int]) -> None:
    offsets = torch.tensor([0, *counts]).cumsum(0)
    split = leave_one_out(
        EventHistories(torch.arange(int(offsets[-1])), offsets)
    ).nothing_held_out()
    assert_whole(split)
    assert not len(split.valid)
    assert not len(split.tested)
    assert len(split.train) == sum(max(n - 1, 0) for n in counts)


@given(users, st.lists(st.integers(0, MINUTES), min_size=1, max_size=3))
@tuned(max_examples=40)
def test_events_are_counted_before_an_instant(
    times: list[list[datetime]], minutes: list[int]
) -> None:
    instants = [END - timedelta(minutes=m) for m in minutes]
    with TemporaryDirectory() as folder:
        prepared = write_prepared(Path(folder) / "prepared", [[1] * len(t) for t in times], times)
        found = events_before(prepared.folder, instants)
    assert found.tolist() == [[sum(t < at for t in row) for row in times] for at in instants]


def test_the_days_are_those_of_the_time_zone() -> None:
    settings = chosen(test_days=1, valid_days=2, zone="Asia/Tokyo")
    valid, test = window(settings)
    assert test == datetime(2026, 3, 30, 15, tzinfo=UTC)
    assert valid == datetime(2026, 3, 28, 15, tzinfo=UTC)
    # Over the night on which Berlin's clocks go forward a day has 23 hours.
    valid, test = window(chosen(test_days=2, valid_days=1, zone="Europe/Berlin"))
    assert (test - valid) == timedelta(hours=23)


def test_nobody_left_to_test_is_told(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "one", [["a"], ["b"]])
    with pytest.raises(InputError, match="at least two interactions") as caught:
        split_as_asked(chosen("leave_one_out"), DAY, prepared)
    assert caught.value.exit_code == 2
    late = date(2026, 12, 24)  # long after the last event
    with pytest.raises(InputError, match=r"2026-12-18 00:00 UTC.*last event at 2026-11-01 12:00"):
        split_as_asked(chosen(), late, prepared)
