"""Candidates and exclusions per user give the lists of a plain loop over all items."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.errors import (
    BundleError,
    ConfigError,
    FearecError,
    InputError,
    ResumeError,
    StorageError,
)
from pipeline.results import PairCounts
from pipeline.scoring import candidate_scorer, list_scorer
from pipeline.scoring.user_lists import UserItems
from pipeline.storage.resources import ResourceSettings
from tests.helpers.scoring_cases import (
    START,
    brute_force,
    events,
    random_histories,
    rows,
    run,
    write_log,
    write_pairs,
    write_sequences,
)

ITEMS = [f"item{index}" for index in range(1, 41)]
HISTORIES = {
    **random_histories(14, seed=5),
    "nobody": ["item77"],
    "nowhere": [],
    "émile": ["item2"],
}
Pairs = list[tuple[Any, Any]]
Values = dict[str, Any]


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """40 items whose scores are exact whatever computes them, many of them tied."""
    random = np.random.default_rng(1)
    # Sums of at most five, divided by their number, are whole; so are the products, below 2^24.
    embedding = 60 * random.integers(-1, 2, (41, 4)).astype(np.float32)
    embedding[0] = 0
    counts = [*random.integers(1, 4, 38), 0, 0]
    folder = tmp_path_factory.mktemp("bundles") / "tied"
    return make_bundle(folder, popularity=counts, embedding=embedding)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequences(tmp_path_factory.mktemp("input") / "s.parquet", HISTORIES)


def by_hand(bundle: Bundle, user: str, price: dict[str, int], rules: Values) -> list[str]:
    """One user's list."""
    candidates, exclude = rules["candidates"], rules["exclude"]

    def may_get(item: str) -> bool:
        listed = candidates is None or (user, item) in candidates
        return listed and (exclude is None or (user, item) not in exclude)

    allowed = {item for item in ITEMS if price[item] < rules["below"] and may_get(item)}
    ranked = brute_force(bundle, HISTORIES[user], 40, rules["exclude_seen"], allowed)
    left, places = [slot - 1 for slot in rules["slots"]], dict[int, str]()

    def fits(item: str) -> bool:
        same = [each for each in places.values() if price[each] % 3 == price[item] % 3]
        return item not in places.values() and len(same) < rules["most"]

    for item, _ in ranked:
        if left and price[item] < rules["promoted"] and fits(item):
            places[left.pop(0)] = item
    for item, _ in ranked:
        free = [place for place in range(rules["top_k"]) if place not in places]
        if free and fits(item):
            places[free[0]] = item
    return [places[place] for place in sorted(places)]


pairs_of_users = st.lists(
    st.tuples(st.sampled_from([*HISTORIES, "absent"]), st.sampled_from([*ITEMS, "item99"])),
    min_size=30,
    max_size=200,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_with_any_other_rules_the_lists_are_those_of_a_plain_loop(
    bundle: Bundle, inputs: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    random = np.random.default_rng(data.draw(st.integers(0, 9), label="prices"))
    price = dict(zip(ITEMS, map(int, random.integers(1, 100, len(ITEMS))), strict=True))
    table = {
        "item_id": ITEMS,
        "price": list(price.values()),
        "kind": [x % 3 for x in price.values()],
    }
    pq.write_table(pa.table(table), folder / "items.parquet")
    top_k = data.draw(st.integers(1, 12), label="top_k")
    n_slots = data.draw(st.integers(0, min(3, top_k)), label="slots")
    rules: Values = {
        "top_k": top_k,
        "exclude_seen": data.draw(st.booleans(), label="exclude_seen"),
        "below": data.draw(st.sampled_from([100, 80]), label="below"),
        "most": data.draw(st.sampled_from([99, 1, 2]), label="most"),
        "slots": data.draw(st.permutations(range(1, top_k + 1)), label="places")[:n_slots],
        "promoted": data.draw(st.sampled_from([10, 50]), label="promoted"),
        "candidates": data.draw(st.none() | pairs_of_users, label="candidates"),
        "exclude": data.draw(st.none() | pairs_of_users, label="exclude"),
    }
    lists = {
        name: write_pairs(folder / f"{name}.parquet", rules[name])
        for name in ("candidates", "exclude")
        if rules[name] is not None
    }
    promotion = {"where": f"price < {rules['promoted']}", "slots": rules["slots"]}
    with pytest.MonkeyPatch.context() as patch:  # several groups of users
        patch.setattr(candidate_scorer, "_PAIRS", 60)
        patch.setattr(candidate_scorer, "_FLOATS", 64)
        patch.setattr(list_scorer, "_CANDIDATES", 100)
        result = run(
            inputs,
            bundle,
            folder / "out",
            items_table=str(folder / "items.parquet"),
            top_k=top_k,
            exclude_seen=rules["exclude_seen"],
            where=f"price < {rules['below']}",
            max_per={} if rules["most"] == 99 else {"kind": rules["most"]},
            promotion=[promotion] if n_slots else [],
            **lists,
        )
    found = rows(folder / "out")
    for user in HISTORIES:
        mine = [item for item, _ in found.get(user, [])]
        assert mine == by_hand(bundle, user, price, rules), user
    for name, counts in (("candidates", result.candidates), ("exclude", result.exclude)):
        assert (counts is None) == (rules[name] is None)
        if counts is not None:
            known = {(user, item) for user, item in rules[name] if item != "item99"}
            n_known = sum(item != "item99" for _, item in rules[name])
            users = {user for user, _ in known}
            assert counts == PairCounts(
                null_rows=0,
                repeated_rows=n_known - len(known),
                unknown_rows=len(rules[name]) - n_known,
                absent_users=len(users - HISTORIES.keys()),
                users_without=len(HISTORIES.keys() - users),
            )


def test_scores_are_those_of_the_full_ranking(bundle: Bundle, inputs: Path, tmp_path: Path) -> None:
    everything = [(user, item) for user in HISTORIES for item in ITEMS]
    run(inputs, bundle, tmp_path / "full")
    file = write_pairs(tmp_path / "all.parquet", everything)
    run(inputs, bundle, tmp_path / "own", candidates=file)
    full, own = pq.read_table(tmp_path / "full"), pq.read_table(tmp_path / "own")
    names = ["user_id", "rank", "item_id", "source"]
    assert own.select(names).equals(full.select(names))
    np.testing.assert_allclose(own["score"].to_numpy(), full["score"].to_numpy(), atol=1e-5)


def test_users_are_found_by_integers_and_by_the_bytes_of_texts() -> None:
    texts = sorted(["", "a", "a\0b", "aa", "z", "é", "\uff5a", "\U0001d537", "b"], key=str.encode)
    numbers = [-(2**63), -5, 0, 7, 2**40]
    for known, kind, others in (
        (texts, pa.large_string(), ["aaa", "zz", "\U0010ffff"]),
        (numbers, pa.int64(), [-6, 1, 2**63 - 1]),
    ):
        for count in range(len(known) + 1):
            offsets = np.arange(count + 1)
            ids = pa.array(known[:count], kind)
            listed = UserItems(ids, offsets, np.arange(count, dtype=np.int32), PairCounts())
            asked = pa.array([*known, *others])
            expected = [place if place < count else -1 for place in range(len(known))]
            assert listed.places(asked).tolist() == [*expected, *[-1] * len(others)]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "folder", "glob", "wide"])
def test_files_of_any_form_and_of_logs_with_integers(
    make_bundle: Callable[..., Bundle], tmp_path: Path, form: str
) -> None:
    bundle = make_bundle(tmp_path / "numbers", item_ids=[7, 8, 9, 10])
    log = write_log(tmp_path / "n.parquet", [(1, 10, START), (2, 10, START), (3, 9, START)])
    pairs: Pairs = [(1, 7), (1, 8), (3, 10), (1, 7), (9, 7), (None, 7), (2, None), (2, 77)]
    path = tmp_path / f"pairs.{form}"
    if form == "csv":
        text = "\n".join(f"{user or ''},{item or ''}" for user, item in pairs)
        path.write_text("user_id,item_id\n" + text)
    elif form == "jsonl":
        nulls = {None: "null"}
        path.write_text(
            "\n".join(
                f'{{"item_id": {nulls.get(item, item)}, "user_id": {nulls.get(user, user)}}}'
                for user, item in pairs
            )
        )
    elif form in ("folder", "glob"):
        path = tmp_path / "pairs"
        path.mkdir()
        write_pairs(path / "a.parquet", pairs[:3])
        write_pairs(path / "b.parquet", pairs[3:])
        write_pairs(path / "empty.parquet", [])
        path = path / "*.parquet" if form == "glob" else path
    else:
        kinds = (pa.float64(), pa.uint64()) if form == "wide" else (pa.int16(), pa.int32())
        write_pairs(path, pairs, kinds)
    result = run(log, bundle, tmp_path / "only", candidates=path, top_k=4)
    found = {user: {item for item, _ in mine} for user, mine in rows(tmp_path / "only").items()}
    assert found == {1: {7, 8}, 3: {10}}
    assert result.candidates == PairCounts(2, 1, 1, 1, 1)
    assert (result.n_users, result.n_short, result.exclude) == (3, 3, None)
    run(log, bundle, tmp_path / "never", exclude=path, top_k=4)
    found = {user: {item for item, _ in mine} for user, mine in rows(tmp_path / "never").items()}
    assert found == {1: {9}, 2: {7, 8, 9}, 3: {7, 8}}


def test_a_resumed_run_needs_the_same_files_and_counts_all_users(
    bundle: Bundle, inputs: Path, tmp_path: Path
) -> None:
    file = write_pairs(tmp_path / "pairs.parquet", [("user001", "item3"), ("other", "item4")])
    first = run(inputs, bundle, tmp_path / "out", exclude=file)
    again = run(inputs, bundle, tmp_path / "out", exclude=file, resume=True)
    assert again.exclude == first.exclude == PairCounts(0, 0, 0, 1, len(HISTORIES) - 1)
    write_pairs(tmp_path / "pairs.parquet", [("user001", "item5"), ("other", "item4")])
    with pytest.raises(ResumeError, match=r"pairs\.parquet is not what it was"):
        run(inputs, bundle, tmp_path / "out", exclude=file, resume=True)


KNOWN = ("user001", "item1")


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("candidates", {"user_id": ["x"], "item_id": ["item1"]}, "none of the users of .*input"),
        ("exclude", {"user_id": ["x"], "item_id": ["item1"]}, "users of .*accept_unknown_deny"),
        (
            "candidates",
            {"user_id": ["user001"], "item_id": ["x"]},
            "none of the items of .*1 other",
        ),
        ("exclude", {"user_id": ["user001"], "item_id": ["x"]}, "items of .*accept_unknown_deny"),
        ("candidates", {"user_id": [], "item_id": []}, "none of the items of score.candidates"),
        ("exclude", {"user_id": ["user001"]}, "no column 'item_id' of ids; expected user_id and"),
        ("exclude", {"user": ["user001"], "item_id": ["item1"]}, "no column 'user_id' of ids"),
        ("exclude", {"user_id": [1], "item_id": ["item1"]}, "ids of another kind; expected string"),
        (
            "exclude",
            {"user_id": ["user001"], "item_id": [1]},
            "another kind; expected string as in",
        ),
        ("exclude", {"user_id": [[1]], "item_id": ["item1"]}, "no column 'user_id' of ids"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    bundle: Bundle, inputs: Path, tmp_path: Path, name: str, table: Values, message: str
) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(FearecError, match=message) as raised:
        run(inputs, bundle, tmp_path / "out", **{name: path})
    assert "\n" not in str(raised.value)
    assert "pairs.parquet" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_missing_damaged_and_overlapping_files_are_errors(
    bundle: Bundle, inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        run(inputs, bundle, tmp_path / "out", exclude=tmp_path / "gone.csv")
    with pytest.raises(InputError, match="an empty path"):
        run(inputs, bundle, tmp_path / "out", candidates="")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"bad\.parquet"):
        run(inputs, bundle, tmp_path / "out", exclude=tmp_path / "bad.parquet")
    (tmp_path / "twice.csv").write_text("user_id,user_id,item_id\nuser001,x,item1\n")
    with pytest.raises(FearecError, match="'user_id' is there twice"):
        run(inputs, bundle, tmp_path / "out", exclude=tmp_path / "twice.csv")
    (tmp_path / "own").mkdir()
    file = write_pairs(tmp_path / "own" / "pairs.parquet", [KNOWN])
    with pytest.raises(ConfigError, match="output folder holds an input"):
        run(inputs, bundle, tmp_path / "own", exclude=file, overwrite=True)
    with pytest.raises(ConfigError, match="output folder lies in an input"):
        run(inputs, bundle, tmp_path / "own" / "out", exclude=tmp_path / "own")


def test_unknown_exclusions_are_accepted_on_request_and_none_need_be(
    bundle: Bundle, inputs: Path, tmp_path: Path
) -> None:
    file = write_pairs(tmp_path / "pairs.parquet", [("x", "item1"), ("x", "y")])
    result = run(inputs, bundle, tmp_path / "out", exclude=file, accept_unknown_deny=True)
    assert result.exclude == PairCounts(0, 0, 1, 1, len(HISTORIES))
    (tmp_path / "none.csv").write_text("user_id,item_id\n")
    result = run(inputs, bundle, tmp_path / "none", exclude=tmp_path / "none.csv")
    assert result.exclude == PairCounts(users_without=len(HISTORIES))


def test_users_of_logs_and_of_damaged_files_are_known(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write_log(tmp_path / "logs" / "b.parquet", events(HISTORIES))
    (tmp_path / "logs" / "a.parquet").write_bytes(b"damaged")
    file = write_pairs(tmp_path / "pairs.parquet", [KNOWN])
    given: Values = {"exclude": file, "skip_bad_files": True}
    assert run(tmp_path / "logs", tiny_bundle, tmp_path / "out", **given).skipped_files
    assert "item1" not in dict(rows(tmp_path / "out")["user001"])
    write_pairs(tmp_path / "pairs.parquet", [("x", "item1")])
    with pytest.raises(ConfigError, match="none of the users"):
        run(tmp_path / "logs", tiny_bundle, tmp_path / "no", **given)


def test_lists_are_sorted_in_the_folder_of_the_settings(
    bundle: Bundle, inputs: Path, tmp_path: Path
) -> None:
    file = write_pairs(tmp_path / "pairs.parquet", [KNOWN])
    resources = ResourceSettings(scratch_dir=tmp_path / "new" / "scratch")
    run(inputs, bundle, tmp_path / "out", exclude=file, resources=resources)
    assert [*(tmp_path / "new").iterdir()] == [tmp_path / "new" / "scratch"]
    assert not [*(tmp_path / "new" / "scratch").iterdir()]
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "scratch", Path("/proc")):  # where nobody can write
        resources = ResourceSettings(scratch_dir=folder)
        with pytest.raises(StorageError, match=f"{folder}: cannot be read or written"):
            run(inputs, bundle, tmp_path / "more", exclude=file, resources=resources)


def test_what_killed_sorts_left_goes_when_it_is_a_day_old(
    bundle: Bundle, inputs: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    for name in ("fearec-scratch-old", "fearec-scratch-new", "old"):
        (scratch / name / "below").mkdir(parents=True)
        if name.endswith("old"):
            os.utime(scratch / name, (time.time() - 90_000,) * 2)
    file = write_pairs(tmp_path / "pairs.parquet", [KNOWN])
    resources = ResourceSettings(scratch_dir=scratch)
    run(inputs, bundle, tmp_path / "out", exclude=file, resources=resources)
    assert {each.name for each in scratch.iterdir()} == {"fearec-scratch-new", "old"}


def test_the_progress_of_candidates_counts_every_user_once(
    bundle: Bundle, inputs: Path, tmp_path: Path
) -> None:
    pairs = [(user, item) for user in list(HISTORIES)[:-2] for item in ITEMS[:9]]
    done: list[int] = []
    run(
        inputs, bundle, tmp_path / "out", batch_size=3,
        candidates=write_pairs(tmp_path / "pairs.parquet", pairs),
        progress=lambda users, total: done.append(users),
    )  # fmt: skip
    assert done == sorted(done)
    assert done[-1] == len(HISTORIES)
    assert len(done) > len(HISTORIES) // 3


def test_candidates_need_the_encoder_alone(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], inputs: Path, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", popularity=[*range(38, 0, -1), 0, 0])
    other.recommender.write_bytes(b"not a graph")
    pairs = [(user, item) for user in HISTORIES for item in ITEMS[:20]]
    given: Values = {"candidates": write_pairs(tmp_path / "pairs.parquet", pairs)}
    run(inputs, tiny_bundle, tmp_path / "expected", **given)
    # In whatever precision: a bundle has its encoder in float32.
    result = run(inputs, other, tmp_path / "found", **given, precision="fp16")
    assert result.precision == "fp32"
    assert rows(tmp_path / "found") == rows(tmp_path / "expected") != {}
    with pytest.raises(BundleError, match="cannot load the graph"):
        run(inputs, other, tmp_path / "all")
