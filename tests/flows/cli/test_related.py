"""`fearec related`, `embeddings` and `audience`, on a warehouse with a model that serves."""

import json
import math
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner, Result

from flows.cli.main import app
from pipeline.bundles.bundle import Bundle
from pipeline.related.item_vectors import item_vectors
from pipeline.storage.locks import exclusive_lock
from tests.conftest import MAX_LENGTH
from tests.helpers.served_warehouse import DAY, VERSION, serve, settings_of

ITEMS = [f"i{number}" for number in range(1, 13)]
UNTRAINED, UNSEEN = "i5", "i12"
POPULARITY = [0 if item == UNTRAINED else 3 for item in ITEMS]


@pytest.fixture
def histories() -> list[list[str]]:
    rng = np.random.default_rng(4)
    return [rng.choice(ITEMS[:11], rng.integers(1, 8)).tolist() for _ in range(40)] + [["other"]]


@pytest.fixture
def bundle(
    tmp_path: Path,
    make_bundle: Callable[..., Bundle],
    histories: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Bundle:
    monkeypatch.chdir(tmp_path)
    # The bundle knows the items by other indices than the histories, and lacks one.
    prepared = [*reversed(ITEMS), "other"]
    return serve(
        tmp_path, make_bundle, histories,
        item_ids=ITEMS, popularity=POPULARITY, prepared_items=prepared,
    )  # fmt: skip


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, *settings_of(Path.cwd())])


def shown(*arguments: str) -> str:
    done = call(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def rows(name: str) -> list[dict[str, Any]]:
    return DeltaTable(f"warehouse/{name}").to_pyarrow_table().to_pylist()


def best(name: str = "related_items") -> dict[str, list[tuple[str, float]]]:
    """The related items of each item, best first."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in sorted(rows(name), key=lambda row: row["rank"]):
        found.setdefault(row["item_id"], []).append((row["related_item_id"], row["score"]))
        assert row["rank"] == len(found[row["item_id"]])
    return found


def cosines(bundle: Bundle, n: int) -> dict[str, list[tuple[str, float]]]:
    table = item_vectors(bundle).astype(np.float64)
    unit = table / np.maximum(np.linalg.norm(table, axis=1), 1e-30)[:, None]
    known = [item for item in ITEMS if item != UNTRAINED]
    found = {}
    for item in known:
        others = [i for i in known if i != item]
        score = {i: float(unit[ITEMS.index(item) + 1] @ unit[ITEMS.index(i) + 1]) for i in others}
        order = sorted(others, key=lambda i, score=score: -score[i])[:n]
        found[item] = [(i, pytest.approx(score[i], abs=1e-6)) for i in order]
    return found


def test_related_items_by_cosine_are_a_partition(bundle: Bundle) -> None:
    out = shown("related", "--top-n", "4")
    table = Path("warehouse/related_items").absolute()
    assert out == (
        f"{table}: 44 rows for 11 items by cosine, 1 others were never trained on;"
        f" run date 2026-07-01, model {VERSION}\n"
    )
    assert best() == cosines(bundle, 4)
    assert {
        (row["run_date"], row["model_version"], row["source"]) for row in rows("related_items")
    } == {(DAY, VERSION, "cosine")}
    assert len({row["generated_at"] for row in rows("related_items")}) == 1
    # Again: the same rows in their place.
    result = json.loads(shown("related", "--top-n", "2", "--json"))
    assert result == {
        "table": str(table), "model_version": VERSION, "run_date": "2026-07-01",
        "source": "cosine", "n_items": 11, "n_untrained": 1, "n_rows": 22, "n_not_offered": 0,
    }  # fmt: skip
    assert best() == cosines(bundle, 2)
    assert DeltaTable(str(table)).metadata().partition_columns == ["run_date"]


def test_by_co_occurrence_they_are_counts_of_users(
    bundle: Bundle, histories: list[list[str]]
) -> None:
    assert "by co-occurrence" in shown("related", "--by", "co-occurrence")
    users = {item: {u for u, each in enumerate(histories) if item in each} for item in ITEMS}
    found = best()
    known = [item for item in ITEMS if item != UNTRAINED]
    for item in known:
        scores = {
            other: len(users[item] & users[other]) / math.sqrt(len(users[item]) * len(users[other]))
            for other in known
            if other != item and users[item] & users[other]
        }
        order = sorted(scores, key=lambda i, s=scores: (-np.float32(s[i]), ITEMS.index(i)))
        assert [related for related, _ in found.get(item, [])] == order
        for related, score in found.get(item, []):
            assert score == pytest.approx(scores[related], rel=1e-6)
    assert UNSEEN not in found


def test_each_run_date_and_each_model_has_its_rows(
    bundle: Bundle, tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    shown("related", "--top-n", "1")
    later, version = date(2026, 7, 2), "20260702-bb"
    ids = ["i1", "i2", "new"]
    serve(
        tmp_path, make_bundle, [["i1", "new"]], run_date=later, model_version=version, item_ids=ids
    )
    assert f"run date 2026-07-02, model {version}" in shown("related", "--top-n", "1")
    partitions = {(row["run_date"], row["model_version"]) for row in rows("related_items")}
    assert partitions == {(DAY, VERSION), (later, version)}
    shown("related", "--top-n", "1", "--date", "2026-07-01", "--model", version)
    assert {row["model_version"] for row in rows("related_items")} == {version}
    assert "no model serves this run date" in call("related", "--date", "2026-07-09").stderr


def test_embeddings_are_two_tables(bundle: Bundle, histories: list[list[str]]) -> None:
    lines = shown("embeddings").splitlines()
    assert lines[0].endswith(
        "item_embeddings: 11 items of 16 dimensions, 1 others were never trained on;"
        f" run date 2026-07-01, model {VERSION}"
    )
    assert "40 users of 16 dimensions, 1 others have no item that the model knows" in lines[1]
    table = item_vectors(bundle)
    items = {row["item_id"]: row["embedding"] for row in rows("item_embeddings")}
    assert items == {
        item: table[place].tolist()
        for place, item in enumerate(ITEMS, start=1)
        if item != UNTRAINED
    }
    users = {row["user_id"]: row["embedding"] for row in rows("user_embeddings")}
    assert {*users} == {*range(40)}
    for user, found in users.items():
        last = [ITEMS.index(item) + 1 for item in histories[user]][-MAX_LENGTH:]
        np.testing.assert_allclose(found, table[last].mean(axis=0), atol=1e-6)
    assert json.loads(shown("embeddings", "--json"))["n_users"] == 40
    assert len(rows("user_embeddings")) == 40
    schema = DeltaTable("warehouse/user_embeddings").to_pyarrow_dataset().schema
    assert schema.field("embedding").type.value_type == pa.float32()


def expected_audience(
    bundle: Bundle, histories: list[list[str]], item: str, n: int, *, exclude: bool
) -> list[int]:
    table = item_vectors(bundle).astype(np.float64)
    scores = {
        user: float(
            table[[ITEMS.index(i) + 1 for i in each][-MAX_LENGTH:]].mean(axis=0)
            @ table[ITEMS.index(item) + 1]
        )
        for user, each in enumerate(histories[:40])
        if not (exclude and item in each)
    }
    return sorted(scores, key=lambda user: -scores[user])[:n]


@pytest.mark.parametrize(
    ("flags", "exclude"),
    [
        ([], True),
        (["--exclude-seen"], True),
        (["--include-seen"], False),
        (["--set", "score.exclude_seen=false"], False),
    ],
)
def test_an_audience_is_a_file(
    flags: list[str], exclude: bool, bundle: Bundle, histories: list[list[str]]
) -> None:
    Path("ids.txt").write_text(f"item_id\ni3\nnowhere\n{UNTRAINED}\ni1\n")
    target = Path("out") / "a.parquet"
    arguments = ["--items", "ids.txt", "--top-n", "6", "--output", str(target)]
    out = shown("audience", *arguments, *flags)
    assert out == (
        "out/a.parquet: 12 rows for 2 items, the best of 40 users, 1 listed items are unknown,"
        f" 1 others were never trained on; run date 2026-07-01, model {VERSION}\n"
    )
    assert [file.name for file in target.parent.iterdir()] == ["a.parquet"]
    found = pq.read_table(target)
    assert found.column_names == ["item_id", "rank", "user_id", "score"]
    assert found["item_id"].to_pylist() == ["i3"] * 6 + ["i1"] * 6
    assert found["rank"].to_pylist() == [1, 2, 3, 4, 5, 6] * 2
    expected = [
        user
        for item in ("i3", "i1")
        for user in expected_audience(bundle, histories, item, 6, exclude=exclude)
    ]
    assert found["user_id"].to_pylist() == expected
    assert found["score"].type == pa.float32()


def test_an_item_too_wide_for_the_model_is_unknown(
    tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    serve(tmp_path, make_bundle, [[1, 2], [3]], item_ids=np.arange(1, 5, dtype=np.int32))
    pq.write_table(pa.table({"item_id": [2, 2**33]}), "ids.parquet")
    found = json.loads(shown("audience", "--items", "ids.parquet", "--json"))
    assert (found["n_items"], found["n_unknown"]) == (1, 1)
    assert {row["item_id"] for row in found["rows"]} == {2}


def test_without_a_file_the_rows_are_shown(bundle: Bundle, histories: list[list[str]]) -> None:
    Path("ids.txt").write_text("i2\n")
    expected = expected_audience(bundle, histories, "i2", 3, exclude=True)
    arguments = ["audience", "--items", "ids.txt", "--top-n", "3"]
    lines = [line.split() for line in shown(*arguments).splitlines()]
    assert [line[5] for line in lines if "i2" in line] == list(map(str, expected))
    result = json.loads(shown(*arguments, "--json"))
    assert [row["user_id"] for row in result["rows"]] == expected
    assert result["output"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["related", "--by", "colour"], "--by: no such relation; expected cosine or co-occurrence"),
        (["related", "--top-n", "0"], "--top-n: nothing to find; expected at least 1; found 0"),
        (["related", "--model", "nowhere"], "warehouse/models: no such model version"),
        (["related", "--date", "2062-07-01", "--model", VERSION], "run date is in the future"),
        (["related", "--date", "2026-01-01"], "run date 2026-01-01: no model serves this run date"),
        (
            ["embeddings", "--date", "2026-01-02", "--model", VERSION],
            "run_date=2026-01-02/prepared:",
        ),
        (["audience", "--items", "none.txt"], "none.txt: cannot be read"),
        (["audience", "--items", "bad.txt"], "bad.txt: none of the listed items is one that the"),
        (["audience", "--items", "old.txt"], "found 1 ids, 0 of them unknown"),
        (["audience", "--items", "ok.txt", "--top-n", "-1"], "--top-n: nothing to find"),
        (["audience", "--items", "ok.txt", "--output", "work"], "--output: the output must be a"),
        (["audience", "--items", "number.parquet"], "number.parquet: ids of another kind"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, bundle: Bundle) -> None:
    Path("bad.txt").write_text("nowhere\nno\n")
    Path("old.txt").write_text(f"{UNTRAINED}\n")
    Path("ok.txt").write_text("i1\n")
    pq.write_table(pa.table({"item_id": [1, 2]}), "number.parquet")
    before = {*Path.cwd().rglob("*")}
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert {*Path.cwd().rglob("*")} - before <= {Path.cwd() / "work/run_date=2026-07-01/.lock"}


@pytest.mark.parametrize(
    "output",
    [
        "ids.txt",
        "./out/../ids.txt",
        "link.txt",
        "table/part",
        "x",
        "few.txt",
        "users",
        "fearec.toml",
    ],
)
def test_an_audience_replaces_no_input(output: str, bundle: Bundle) -> None:
    Path("ids.txt").write_text("i1\n")
    for file in ("x", "few.txt", "users"):
        Path(file).write_text("i2\n")
    Path("fearec.toml").touch()
    Path("link.txt").symlink_to("ids.txt")
    Path("table").mkdir()
    Path("out").mkdir()
    rules = ["--set", "score.deny=x", "--set", "items.path=table", "--set", "users.path=users"]
    rules += ["--set", "score.segment=[{name='a', users='few.txt', top_k=1}]"]
    done = call("audience", "--items", "ids.txt", "--output", output, *rules)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--output: the output would replace an input" in done.stderr
    assert Path("ids.txt").read_text() == "i1\n"
    assert {Path(file).read_text() for file in ("x", "few.txt", "users")} == {"i2\n"}
    assert not [*Path("table").iterdir()]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("warehouse/models/champion.json", "would replace an input"),
        (f"warehouse/models/{VERSION}/items.parquet", "would replace an input"),
        ("work/run_date=2026-07-01/prepared/users.parquet", "would replace an input"),
        ("logs/audience.parquet", "--output: it lies in logs, which would"),
        ("stage_one/new.parquet", "--output: it lies in stage_one/*.parquet, which would"),
        ("pairs.csv", "--output: it lies in pairs.csv, which would"),
    ],
)
def test_an_audience_is_not_written_where_runs_read(
    output: str, message: str, bundle: Bundle
) -> None:
    Path("ids.txt").write_text("i1\n")
    Path("logs").mkdir()
    Path("stage_one").mkdir()
    Path("pairs.csv").write_text("user_id,item_id\n")
    rules = ["--set", "score.candidates=stage_one/*.parquet", "--set", "score.exclude=pairs.csv"]
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    done = call("audience", "--items", "ids.txt", "--output", output, *rules)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    after = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    assert after == before


def test_histories_that_were_changed_count_as_none(bundle: Bundle) -> None:
    Path("work/run_date=2026-07-01/prepared/sequences/3.arrow").write_bytes(b"")
    done = call("related", "--by", "co-occurrence")
    assert done.exit_code == 2
    assert "there are no prepared histories of this run date" in done.stderr
    shown("related")  # needs none


def test_a_run_date_is_held_by_one_at_a_time(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "work/run_date=2026-07-01"
    with exclusive_lock(folder / ".lock", "busy", folder):
        for command in (["related"], ["related", "--by", "co-occurrence"], ["embeddings"]):
            done = call(*command)
            assert (done.exit_code, done.stdout) == (1, "")
            assert "another run works on this run date" in done.stderr
    assert not Path("warehouse/related_items").exists()


def test_a_table_of_other_columns_stays_as_it_is(
    bundle: Bundle, tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    shown("related")
    before = rows("related_items")
    serve(
        tmp_path, make_bundle, [[1, 2]], run_date=date(2026, 7, 2), model_version="20260702-bb",
        item_ids=[1, 2, 3],
    )  # fmt: skip
    done = call("related")
    assert done.exit_code == 1
    assert "the table has other columns than the new rows" in done.stderr
    assert rows("related_items") == before


def test_one_item_is_related_to_none(
    tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    serve(tmp_path, make_bundle, [["a"]], item_ids=["a", "b"], popularity=[1, 0])
    assert "0 rows for 1 items" in shown("related")
    assert rows("related_items") == []
    assert "0 rows for 1 items" in shown("related", "--by", "co-occurrence")


def test_a_bundle_of_version_0_1_has_related_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Path(__file__).parents[2] / "golden" / "version_0_1"
    shutil.copytree(golden, tmp_path / "here", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "here")
    done = CliRunner().invoke(app, ["related", "--top-n", "3", "--json"])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run_date"] == "2026-06-03"
    assert result["n_rows"] == len(rows("related_items")) == 3 * result["n_items"] > 0
    done = CliRunner().invoke(app, ["related", "--by", "co-occurrence"])
    assert done.exit_code == 2
    assert "there are no prepared histories of this run date" in done.stderr


RULES = ["--set", "items.path=items.csv", "--set", "score.where=price < 50",
         "--set", "score.deny=deny.txt", "--set", "score.retire_after_days=60"]  # fmt: skip


@pytest.fixture
def allowed(bundle: Bundle) -> list[str]:
    """The items that `RULES` leave; the bundle's events are of November, after the run date."""
    dear, denied = ("i2", "i7"), ("i3", "i7")
    prices = (f"{item},{90 if item in dear else 5}\n" for item in ITEMS)
    Path("items.csv").write_text("item_id,price\n" + "".join(prices))
    Path("deny.txt").write_text("\n".join(denied))
    return [item for item in ITEMS if item not in (*dear, *denied, UNTRAINED)]


@pytest.mark.parametrize("by", ["cosine", "co-occurrence"])
def test_related_items_follow_the_rules(by: str, allowed: list[str]) -> None:
    shown("related", "--by", by)
    every = best()
    out = shown("related", "--by", by, "--top-n", "4", *RULES)
    assert ", rules leave out 3 of them as related items; run date" in out
    expected = {
        item: [(i, score) for i, score in related if i in allowed][:4]
        for item, related in every.items()
    }
    assert best() == {item: related for item, related in expected.items() if related}
    nothing = call("related", "--by", by, "--set", "score.where=popularity > 99")
    assert nothing.exit_code == 2
    assert "no item is left: rules of [score] leave out all of them" in nothing.stderr
    assert "found untrained, score.where" in nothing.stderr


def test_items_that_rules_leave_out_have_no_audience(allowed: list[str]) -> None:
    Path("ids.txt").write_text("i3\ni7\ni1\ni2\ni4\n")
    every = json.loads(shown("audience", "--items", "ids.txt", "--json"))
    out = shown("audience", "--items", "ids.txt", *RULES)
    assert ", others are left out: 2 by score.deny, 2 by score.where; run date" in out
    some = json.loads(shown("audience", "--items", "ids.txt", "--json", *RULES))
    assert some["rows"] == [row for row in every["rows"] if row["item_id"] in allowed]
    assert some["left_out"] == {"score.deny": 2, "score.where": 2}
    assert some["n_items"] == 2
    Path("ids.txt").write_text("i3\ni7\n")
    nothing = call("audience", "--items", "ids.txt", *RULES)
    assert nothing.exit_code == 2
    assert "ids.txt: no item is left: rules of [score] leave out all of them" in nothing.stderr
