"""Scoring with segments gives each user the list of a plain loop by the rules of their segment."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError, FearecError, ResumeError
from pipeline.results import SegmentCounts
from tests.helpers.examples import few_and_many
from tests.helpers.scoring_cases import (
    START,
    Killed,
    events,
    kill_after,
    rows,
    run,
    write_log,
    write_pairs,
)
from tests.pipeline.scoring.test_list_rules import (
    FRESHNESS,
    HISTORIES,
    ITEMS,
    NEW,
    WHOLE,
    Values,
    attributes,
    by_hand,
)
from tests.pipeline.scoring.test_list_rules import log as log
from tests.pipeline.scoring.test_list_rules import whole_bundle as whole_bundle  # scores are exact
from tests.pipeline.scoring.test_list_rules import whole_log as whole_log

USERS = [*{**WHOLE, **HISTORIES}, "stranger"]
TIERS = {user: ["gold", "silver", None][place % 3] for place, user in enumerate(USERS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tables of items and users, and a file of ids."""
    write_tables(tmp_path)
    (tmp_path / "vip.txt").write_text("user001\nnobody\nstranger\n")
    return tmp_path


def write_tables(folder: Path, seed: int = 0) -> None:
    pq.write_table(attributes(seed), folder / "items.parquet")
    tier = pa.array(TIERS.values(), pa.string())
    pq.write_table(pa.table({"user_id": USERS, "tier": tier}), folder / "users.parquet")


def run_in(folder: Path, log: Path, bundle: Bundle, out: str = "out", **options: Any) -> Any:
    tables = {name: str(folder / f"{name.partition('_')[0]}.parquet") for name in TABLES}
    return run(log, bundle, folder / out, **{**tables, **options})


TABLES = ("items_table", "users_table")


@st.composite
def list_rules(draw: st.DrawFn, top_k: int) -> Values:
    """A condition, and promotions whose slots are below K."""
    slots = draw(st.permutations(range(1, top_k + 1)))
    border = draw(st.integers(0, min(2, top_k)))
    second = draw(st.integers(0, min(2, top_k - border)))
    promised = [slots[:border], slots[border : border + second]]
    return {
        "top_k": top_k,
        "below": draw(st.sampled_from([None, 30, 80])),
        "promotions": [(draw(st.sampled_from([1, 10, 50])), each) for each in promised if each],
    }


@st.composite
def user_lists(draw: st.DrawFn) -> dict[str, list[tuple[str, str]]]:
    """Pairs of `score.exclude` and perhaps `score.candidates`: of few items, so that they meet."""
    pairs = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from([*ITEMS[:12], "new3"])))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    own = [(user, item) for user in USERS for item in ITEMS if random.random() < 0.3]
    return {"exclude": draw(pairs)} | ({"candidates": own} if draw(st.booleans()) else {})


def places_left(rules: Values) -> int:
    """The number of places that are no slots of promotions."""
    return int(rules["top_k"]) - sum(len(slots) for _, slots in rules["promotions"])


def where(below: int | None) -> str | None:
    return None if below is None else f"price < {below}"


def promotion(rules: Values) -> list[Values]:
    return [{"where": where(below), "slots": slots} for below, slots in rules["promotions"]]


def check_each_user_gets_the_list_of_the_first_segment_that_they_are_in(
    tiny_bundle: Bundle,
    whole_bundle: Bundle,
    log: Path,
    whole_log: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    folder, seed = tmp_path_factory.mktemp("segments"), data.draw(st.integers(0, 9), label="seed")
    write_tables(folder, seed)
    common = {
        "exclude_seen": data.draw(st.booleans(), label="exclude_seen"),
        "max_per": data.draw(st.dictionaries(st.just("category"), st.integers(1, 3))),
        "offset": data.draw(st.booleans(), label="offset"),
        "freshness": data.draw(st.booleans(), label="freshness"),
        "similar_by": ("category", "brand"),
    }
    lists = data.draw(user_lists(), label="user lists")
    plain = data.draw(list_rules(data.draw(st.integers(1, 12), label="top_k")), label="plain")
    by_user, segments, sizes = dict.fromkeys(USERS, plain), [], []
    every_rules, share = [plain], None
    taken: set[str] = set()
    for number in range(data.draw(st.integers(1, 3), label="segments")):
        top_k = data.draw(st.none() | st.integers(1, 12), label="own top_k")
        own = data.draw(list_rules(top_k or plain["top_k"]), label="own")
        slots = [slot for _, slots in plain["promotions"] for slot in slots]
        inherits = data.draw(st.booleans()) and max(slots, default=0) <= own["top_k"]
        if data.draw(st.booleans(), label="by file"):
            members = set(data.draw(st.lists(st.sampled_from(USERS), unique=True)))
            path = folder / f"{number}.txt"
            path.write_text("".join(f"{user}\n" for user in sorted(members)))
            chosen = str(path)
        else:
            tier = data.draw(st.sampled_from(["gold", "silver", "none of these"]))
            members = {user for user in USERS if TIERS[user] == tier}
            chosen = f"tier = '{tier}'"
        segments.append(
            {
                "name": f"segment {number}",
                "users": chosen,
                "where": where(own["below"]),
                "top_k": top_k,
                "promotion": None if inherits else promotion(own),
            }
        )
        below = [each for each in (plain["below"], own["below"]) if each is not None]
        rules = {
            "top_k": own["top_k"],
            "below": min(below, default=None),
            "promotions": plain["promotions"] if inherits else own["promotions"],
        }
        first = members - taken
        taken |= members
        by_user |= dict.fromkeys(first, rules)
        every_rules.append(rules)
        sizes.append(first)
    if "candidates" not in lists and all(places_left(each) >= 1 for each in every_rules):
        most = min(places_left(each) / each["top_k"] for each in every_rules)
        shares = [each for each in (0.01, 0.25, 0.5) if each == 0.01 or each <= most]
        share = data.draw(st.none() | st.sampled_from(shares), label="share of new items")
    # Means of whole numbers are not whole: new items are looked at with another bundle.
    bundle, histories = (tiny_bundle, HISTORIES) if share else (whole_bundle, WHOLE)
    files = {
        name: write_pairs(folder / f"{name}.parquet", pairs)
        for name, pairs in lists.items()
        if pairs
    }
    result = run_in(
        folder, log if share else whole_log, bundle, exclude_seen=common["exclude_seen"],
        accept_unknown_deny=True,  # exclusions may be of unknown items alone
        max_per=common["max_per"], offset="bonus" if common["offset"] else None,
        freshness=FRESHNESS if common["freshness"] else None, top_k=plain["top_k"],
        where=where(plain["below"]), promotion=promotion(plain), segment=segments,
        new_items=share and {"share": share, "within_days": 21},
        similar_by=common["similar_by"], **files,
    )  # fmt: skip
    assert result.segments == tuple(
        SegmentCounts(f"segment {number}", len(each), len(each & {*histories}))
        for number, each in enumerate(sizes)
    )
    found = rows(folder / "out")
    short = 0
    for user, history in histories.items():
        never = {item for each, item in lists["exclude"] if each == user}
        only = {*ITEMS, *NEW}
        if "candidates" in lists:
            only = {item for each, item in lists["candidates"] if each == user}
        rules = {**common, **by_user[user], "only": only - never, "share": share}
        expected = by_hand(bundle, history, attributes(seed), rules)
        mine = found.get(user, [])
        assert [item for item, _ in mine] == [item for item, _ in expected], user
        assert [score for _, score in mine] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )
        short += len(expected) < rules["top_k"]
    assert result.n_short == short


test_each_user_gets_the_list_of_the_first_segment_that_they_are_in, test_many_segments = (
    few_and_many(
        check_each_user_gets_the_list_of_the_first_segment_that_they_are_in, 6, 60, data=st.data()
    )
)


def test_a_segment_without_rules_changes_nothing(
    whole_bundle: Bundle, whole_log: Path, folder: Path
) -> None:
    common = {"because": True, "exclude_seen": "18 days", "promotion": PROMOTION}
    run_in(folder, whole_log, whole_bundle, "plain", **common)
    run_in(folder, whole_log, whole_bundle, segment=[SEGMENT], **common)
    plain, segmented = (pq.read_table(folder / name) for name in ("plain", "out"))
    assert segmented.drop(["generated_at"]) == plain.drop(["generated_at"])
    assert segmented["because"].null_count < len(segmented)


def test_a_table_of_integers_and_users_of_several_batches(
    whole_bundle: Bundle, folder: Path
) -> None:
    histories = {user: [f"item{user % 40 + 1}"] for user in range(300)}
    numbers = write_log(folder / "numbers.parquet", events(histories))
    (folder / "users.csv").write_text("user_id,age\n" + "".join(f"{x},{x}\n" for x in range(200)))
    result = run_in(
        folder, numbers, whole_bundle, users_table=str(folder / "users.csv"), batch_size=16,
        segment=[{"name": "old", "users": "age >= 150", "top_k": 2}], layout="list",
    )  # fmt: skip
    assert result.segments == (SegmentCounts("old", 50, 50),)
    for row in pq.read_table(folder / "out").to_pylist():
        assert len(row["recommendations"]) == (2 if 150 <= row["user_id"] < 200 else 5)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_users_too_wide_for_the_input_are_in_their_segment_unknown(
    whole_bundle: Bundle, folder: Path, ending: str
) -> None:
    users = pa.table({"user_id": pa.array([1, 2, 3], pa.int32()), "item_id": ["item1"] * 3})
    pq.write_table(users.append_column("timestamp", [[START] * 3]), folder / "in.parquet")
    listed = pa.table({"user_id": [2, 2**33, 3], "age": [9, 9, 1]})
    if ending == "csv":
        (folder / "table.csv").write_text("user_id,age\n2,9\n8589934592,9\n3,1\n")
    else:
        pq.write_table(listed, folder / "table.parquet")
    pq.write_table(pa.table({"user_id": [2**33, 3]}), folder / "some.parquet")
    result = run_in(
        folder, folder / "in.parquet", whole_bundle, users_table=str(folder / f"table.{ending}"),
        segment=[
            {"name": "old", "users": "age > 5", "top_k": 2},
            {"name": "some", "users": str(folder / "some.parquet"), "top_k": 3},
        ],
    )  # fmt: skip
    assert result.segments == (SegmentCounts("old", 2, 1), SegmentCounts("some", 1, 1))
    found = pq.read_table(folder / "out")["user_id"].to_pylist()
    assert [found.count(user) for user in (1, 2, 3)] == [5, 2, 3]


def test_a_run_goes_on_only_with_the_users_that_it_began_with(
    whole_bundle: Bundle, whole_log: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.scoring.scorer.PART_USERS", 10)
    segment = [
        {"name": "vip", "users": str(folder / "vip.txt"), "top_k": 3},
        {"name": "gold", "users": "tier = 'gold'", "where": "price < 80"},
    ]
    whole = run_in(folder, whole_log, whole_bundle, "whole", segment=segment)
    with monkeypatch.context() as patch:
        kill_after(patch, 2, when="write")
        with pytest.raises(Killed):
            run_in(folder, whole_log, whole_bundle, segment=segment)
    before = (folder / "vip.txt").read_text()
    for path, content in (("vip.txt", b"user002\n"), ("users.parquet", None)):
        kept = (folder / path).read_bytes()
        if content is None:
            pq.write_table(pq.read_table(folder / path).slice(1), folder / path)
        else:
            (folder / path).write_bytes(content)
        with pytest.raises(ResumeError, match=path):
            run_in(folder, whole_log, whole_bundle, segment=segment, resume=True)
        (folder / path).write_bytes(kept)
    assert (folder / "vip.txt").read_text() == before
    resumed = run_in(folder, whole_log, whole_bundle, segment=segment, resume=True)
    assert resumed.segments == whole.segments
    assert rows(folder / "out") == rows(folder / "whole")


SEGMENT: Values = {"name": "gold", "users": "tier = 'gold'"}
PROMOTION = [{"where": "price < 50", "slots": [2]}]
PROMOTED_FIRST = [{"where": "true", "slots": [1]}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment": [{"name": "gold"}]}, r"score\.segment\.users: Field required"),
        ({"segment": [{"users": "a.txt"}]}, r"score\.segment\.name: Field required"),
        ({"segment": [{**SEGMENT, "users": ""}]}, r"score\.segment\.users.*at least 1 character"),
        ({"segment": [{**SEGMENT, "colour": 1}]}, r"score\.segment\.colour: unknown setting"),
        ({"segment": [{**SEGMENT, "users": "tier ="}]}, "cannot be parsed"),
        ({"segment": [{**SEGMENT, "users": "colour = 1"}]}, "'gold' users: unknown column colour"),
        ({"segment": [{**SEGMENT, "users": "user_id"}]}, "must be a Boolean expression"),
        ({"segment": [SEGMENT], "users_table": None}, "'gold' users: no users table is set"),
        ({"segment": [{**SEGMENT, "users": "no/such.txt"}]}, r"no/such\.txt: cannot be read"),
        ({"segment": [{**SEGMENT, "where": "colour = 1"}]}, "'gold' where: unknown column colour"),
        ({"segment": [{**SEGMENT, "where": "price < 0"}]}, "'gold' where: no item is left"),
        ({"segment": [{**SEGMENT, "top_k": 99}]}, "'gold' top_k: more recommendations"),
        ({"segment": [SEGMENT, SEGMENT]}, "two segments have the name 'gold'"),
        (
            {"segment": [{**SEGMENT, "promotion": [{"where": "true", "slots": [6]}]}]},
            r"slot 6 .* beyond score\.top_k = 5",
        ),
        (
            {"segment": [{**SEGMENT, "promotion": [{"where": "true", "slots": [1]}] * 2}]},
            "slot 1 is promised twice by promotion of segment 'gold'",
        ),
        (
            {
                "segment": [{**SEGMENT, "top_k": 2}],
                "promotion": [{"where": "true", "slots": [3]}],
            },
            "slot 3 of a promotion is beyond top_k of segment 'gold' = 2",
        ),
        (
            {
                "segment": [{**SEGMENT, "top_k": 1, "promotion": PROMOTED_FIRST}],
                "new_items": {"share": 0.2, "within_days": 14},
            },
            r"score\.new_items is for 1 places, but promotion of segment 'gold' leaves 0 of top_k "
            "of segment 'gold' = 1",
        ),
        (
            {"segment": [{**SEGMENT, "promotion": [{"where": "colour = 1", "slots": [1]}]}]},
            "'gold' promotion 1: unknown column colour",
        ),
    ],
)
def test_segments_that_cannot_be_are_one_clear_line(
    whole_bundle: Bundle, whole_log: Path, folder: Path, changes: Values, message: str
) -> None:
    with pytest.raises(FearecError, match=message) as raised:
        run_in(folder, whole_log, whole_bundle, **changes)
    assert "\n" not in str(raised.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("user_id,tier\nuser001,gold\nuser001,silver\n", "repeated user ids"),
        ("id,tier\nuser001,gold\n", "no usable column 'user_id'"),
        ("user_id,tier,TIER\nuser001,gold,gold\n", "repeated names of columns"),
    ],
)
def test_a_users_table_that_cannot_be_used_is_one_clear_line(
    whole_bundle: Bundle, whole_log: Path, folder: Path, table: str, message: str
) -> None:
    path = folder / "users.csv"
    path.write_text(table)
    with pytest.raises(FearecError, match=message) as raised:
        run_in(folder, whole_log, whole_bundle, users_table=str(path), segment=[SEGMENT])
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_ids_of_another_kind_are_refused(
    whole_bundle: Bundle, whole_log: Path, folder: Path
) -> None:
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), folder / "users.parquet")
    with pytest.raises(FearecError, match="ids of another kind"):
        run_in(folder, whole_log, whole_bundle, segment=[SEGMENT])


def test_a_segment_whose_users_are_all_unknown_is_a_count(
    whole_bundle: Bundle, whole_log: Path, folder: Path
) -> None:
    (folder / "vip.txt").write_text("stranger\n")
    segment = [{"name": "vip", "users": str(folder / "vip.txt")}]
    result = run_in(folder, whole_log, whole_bundle, users_table=None, segment=segment)
    assert result.segments == (SegmentCounts("vip", 1, 0),)


@pytest.mark.parametrize(
    ("users", "is_file"),
    [
        ("vip.txt", True),
        ("lists/vip", True),
        ("./vip", True),
        ("/data/the lists/vip.txt", True),
        ("s3://bucket/vip", True),
        (Path("vip"), True),
        ("is_vip", False),
        ("score > 0.5", False),
        ("score>0.5", False),
        ("(profile.is_vip)", False),
        ("starts_with(mail,'a.b')", False),
    ],
)
def test_a_path_is_told_from_an_expression(users: Any, is_file: bool) -> None:
    (segment,) = ScoreSettings(segment=[{"name": "vip", "users": users}]).segment
    assert (segment.file is not None) == is_file


def test_a_segment_has_a_name() -> None:
    with pytest.raises(ConfigError):
        ScoreSettings(segment=[{"name": "", "users": "a.txt"}])
