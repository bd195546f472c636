"""Splits of events of several types: which are predicted, which are seen, how much they count."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.config.settings import Settings, load_settings
from pipeline.data.held_out import held_out_events
from pipeline.data.prepared import read_histories
from pipeline.data.splits import WITHOUT_TYPE, Split, split_histories
from pipeline.errors import ConfigError, EmptyTestError
from tests.helpers.prepared_folders import write_prepared

DAY = date(2026, 3, 31)
END = datetime(2026, 4, 1, tzinfo=UTC)

# Of each user: a type, and the hour before the end of the run date, oldest first.
Event = tuple[str | None, int]
users = st.lists(
    st.lists(
        st.tuples(st.sampled_from([None, "buy", "rent", "view"]), st.integers(1, 20 * 24)),
        min_size=1,
        max_size=8,
    ).map(lambda events: sorted(events, key=lambda event: -event[1])),
    min_size=1,
    max_size=8,
)
choices = st.sampled_from([(), ("view",), ("buy", "rent"), ("buy",)])


def chosen(inputs: Any, targets: Any, split: str = "leave_one_out") -> Settings:
    return Settings(
        logs={"event_type": "kind"},
        event_types={"inputs": inputs, "targets": targets, "weights": {}},
        evaluate={"split": split},
    )


def split_of(folder: Path, mine: list[list[Event]], settings: Settings) -> Split:
    prepared = write_prepared(
        folder / "prepared",
        [[1 + number % 7 for number in range(len(each))] for each in mine],
        [[END - timedelta(hours=hours) for _, hours in each] for each in mine],
        kinds=[[kind for kind, _ in each] for each in mine],
    )
    histories = read_histories(prepared.folder, settings.event_types.inputs)
    return split_histories(histories, held_out_events(settings, DAY), prepared)


def expected_of(mine: list[list[Event]], settings: Settings) -> dict[str, list[int]]:
    """Flat positions of targets in training, validation, test and refit, by a loop over users."""
    inputs, targets = settings.event_types.inputs, settings.event_types.targets
    found: dict[str, list[int]] = {"train": [], "valid": [], "test": [], "every": []}
    begin = 0
    for each in mine:

        def is_input(at: int, each: list[Event] = each) -> bool:
            return not inputs or each[at][0] in inputs

        predicted = [at for at in range(len(each)) if not targets or each[at][0] in targets]
        if settings.evaluate.split == "time":
            age = [hours for _, hours in each]
            test = [at for at in predicted if age[at] <= 7 * 24]
            valid = [at for at in predicted if 7 * 24 < age[at] <= 14 * 24]
            train = [at for at in predicted if age[at] > 14 * 24]
        else:
            later = [at for at in predicted if at > 0]
            test, valid = later[-1:], later[-2:-1]
            train = [at for at in predicted if at not in (*test, *valid)]
        every = [at for at in predicted if any(map(is_input, range(at)))]
        valid = [at for at in valid[:1] if any(map(is_input, range(at)))]
        train = [at for at in train if any(map(is_input, range(at)))]
        for name, places in (("train", train), ("valid", valid), ("test", test), ("every", every)):
            found[name] += [begin + at for at in places]
        begin += len(each)
    return found


@given(users, choices, choices, st.sampled_from(["leave_one_out", "time"]))
@tuned(max_examples=60)
def test_targets_are_those_of_a_loop_over_the_users(
    mine: list[list[Event]], inputs: tuple[str, ...], targets: tuple[str, ...], split: str
) -> None:
    settings = chosen(inputs, targets, split)
    expected = expected_of(mine, settings)
    kinds = {kind for each in mine for kind, _ in each}
    with TemporaryDirectory() as folder:
        if any(some and not kinds & set(some) for some in (inputs, targets)):
            with pytest.raises(ConfigError, match="no event is of a type that event_types"):
                split_of(Path(folder), mine, settings)
            return
        if not expected["test"]:
            with pytest.raises(EmptyTestError, match="no user to evaluate"):
                split_of(Path(folder), mine, settings)
            return
        found = split_of(Path(folder), mine, settings)
    assert found.train.tolist() == expected["train"]
    assert found.valid.tolist() == expected["valid"]
    tested = found.in_test if found.is_target is None else found.in_test & found.is_target
    assert tested.nonzero().squeeze(1).tolist() == expected["test"]
    flat = [kind for each in mine for kind, _ in each]
    in_test = {flat[at] or WITHOUT_TYPE for at in expected["test"]}
    assert set(found.types_in_test.values()) == in_test
    users_of = torch.searchsorted(found.ends, torch.tensor(expected["test"]), right=True)
    assert found.tested.tolist() == users_of.unique().tolist()
    weights = found.weights({"buy": 3.0, "view": 0.5})
    assert weights is not None
    by_type = {"buy": 3.0, "view": 0.5}
    assert weights.tolist() == [by_type.get(flat[at] or "", 1.0) for at in expected["train"]]
    # The refit trains on every target; what training knows has no event of the test.
    refit = found.nothing_held_out()
    assert refit.train.tolist() == expected["every"]
    assert len(refit.valid) == len(refit.tested) == 0
    known = found.without_test()
    assert known.train.tolist() == (found.train.long() - _dropped_before(found)).tolist()


def _dropped_before(split: Split) -> torch.Tensor:
    return split.in_test.cumsum(0)[split.train.long()]


def test_all_events_are_targets_and_equal_where_nothing_is_said(tmp_path: Path) -> None:
    mine: list[list[Event]] = [[("view", 5), ("buy", 4), (None, 3), ("view", 2)]]
    split = split_of(tmp_path, mine, chosen((), ()))
    assert (split.train.tolist(), split.valid.tolist()) == ([1], [2])
    assert split.weights({}) is None
    assert split.is_target is split.histories.is_input is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["event_types.targets=purchase"], "event_types names types of events, so logs.event_type"),
        (["evaluate.mask_seen=purchase"], "evaluate.mask_seen names types of events"),
        (["event_types.targets=['']"], "must not have an empty type"),
        (["event_types.inputs=3"], "must be a type of events or a list of types"),
        (["event_types.weights={buy = 0}"], "greater than 0"),
        (["event_types.weights={buy = inf}"], "finite number"),
        (
            ["event_types.targets=['buy']", "event_types.weights={view = 2}"],
            "weights has 'view', which is not one of targets",
        ),
        (["event_types.goals=['buy']"], "unknown setting"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(None, given)


def test_types_may_be_one_or_several() -> None:
    named = load_settings(
        None,
        ["logs.event_type=kind", "event_types.targets=buy", "evaluate.mask_seen=['rent','buy']"],
    )
    assert named.event_types.targets == ("buy",)
    assert named.evaluate.mask_seen == named.evaluate.seen_types == ("buy", "rent")
    assert load_settings(None, ["evaluate.mask_seen=false"]).evaluate.seen_types == ()
