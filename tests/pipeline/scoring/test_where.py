"""Scoring with a condition on items: the lists, the counts, the resume key, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner, Result

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError, ResumeError
from pipeline.results import RuleCounts
from pipeline.scoring.cli import app
from tests.helpers.scoring_cases import (
    Killed,
    assert_rows,
    brute_force,
    events,
    kill_after,
    random_histories,
    rows,
    run,
    write_log,
)

CHEAP = {f"item{index}" for index in range(1, 60, 3)}  # some of the bundle's 40, some unknown
NO_ROW = {"item5", "item6"}


def write_table(path: Path, price: int = 9) -> Path:
    known = [f"item{index}" for index in range(1, 60) if f"item{index}" not in NO_ROW]
    prices = [price if item in CHEAP else 100 for item in known]
    pq.write_table(pa.table({"item_id": known, "price": prices}), path)
    return path


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    history = {**random_histories(30), "stranger": ["elsewhere"]}
    return write_log(tmp_path / "logs" / "a.parquet", events(history)).parent


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "items.parquet")


def test_the_lists_are_those_of_an_allow_file_of_the_same_items(
    tiny_bundle: Bundle, tmp_path: Path, logs: Path, table: Path
) -> None:
    (tmp_path / "allow.txt").write_text("\n".join(sorted(CHEAP)))
    options = {"items_table": str(table), "where": "price < 10"}
    allowed = run(logs, tiny_bundle, tmp_path / "one", allow=tmp_path / "allow.txt")
    chosen = run(logs, tiny_bundle, tmp_path / "two", **options)
    one, two = (
        pq.read_table(tmp_path / out).drop_columns(["generated_at"]) for out in ("one", "two")
    )
    assert two.equals(one)
    assert "popular" in two["source"].to_pylist()
    histories = {**random_histories(30), "stranger": ["elsewhere"]}
    expected = {
        user: brute_force(tiny_bundle, mine, allowed=CHEAP) for user, mine in histories.items()
    }
    assert_rows(rows(tmp_path / "two"), expected)
    trained = {row["item_id"] for row in tiny_bundle.items().to_pylist() if row["popularity"]}
    assert allowed.rules is None
    assert chosen.rules == RuleCounts(len(trained - CHEAP), 19, len(NO_ROW))
    both = run(logs, tiny_bundle, tmp_path / "both", allow=tmp_path / "allow.txt", **options)
    assert rows(tmp_path / "both") == rows(tmp_path / "two")
    assert both.rules == RuleCounts(0, 19, len(NO_ROW))


def test_a_condition_needs_no_table_for_what_the_model_knows(
    tiny_bundle: Bundle, tmp_path: Path, logs: Path
) -> None:
    result = run(
        logs, tiny_bundle, tmp_path / "out", where="popularity > 30 AND item_id <> 'item2'"
    )
    found = {item for mine in rows(tmp_path / "out").values() for item, _ in mine}
    assert found == {f"item{index}" for index in range(1, 9) if index != 2}
    assert result.rules == RuleCounts(31, 0, 0)


def test_a_table_is_not_read_where_no_rule_needs_it(
    tiny_bundle: Bundle, tmp_path: Path, logs: Path
) -> None:
    assert run(logs, tiny_bundle, tmp_path / "out", items_table="nowhere.csv").n_users == 31


def test_a_killed_run_is_resumed_unless_the_condition_or_the_table_has_changed(
    tiny_bundle: Bundle,
    tmp_path: Path,
    logs: Path,
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, options = tmp_path / "out", {"items_table": str(table), "where": "price < 10"}
    with monkeypatch.context() as patch:
        kill_after(patch, 0, when="finish")
        with pytest.raises(Killed):
            run(logs, tiny_bundle, out, **options)
    for other in ({"where": "price < 11"}, {"where": None}):
        with pytest.raises(ResumeError):
            run(logs, tiny_bundle, out, **{**options, **other}, resume=True)
    content = table.read_bytes()
    write_table(table, price=8)  # the same items are chosen, but who is to know
    with pytest.raises(ResumeError, match=str(table)):
        run(logs, tiny_bundle, out, **options, resume=True)
    table.write_bytes(content)
    assert run(logs, tiny_bundle, out, **options, resume=True).n_users == 31


def test_nothing_left_names_the_setting(
    tiny_bundle: Bundle, tmp_path: Path, logs: Path, table: Path
) -> None:
    with pytest.raises(ConfigError, match=r"score\.where: no item is left"):
        run(logs, tiny_bundle, tmp_path / "out", items_table=str(table), where="price < 0")
    (tmp_path / "deny.txt").write_text("item1\n")
    with pytest.raises(ConfigError, match=r"deny\.txt: no item is left.*, score\.where"):
        run(logs, tiny_bundle, tmp_path / "out", deny=tmp_path / "deny.txt", where="popularity < 0")


@pytest.fixture
def call(
    tiny_bundle: Bundle, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> Result:
        arguments = [str(logs), "--model", str(tiny_bundle.path), "--output", "out", *flags]
        return CliRunner().invoke(app, [*arguments, "--provider", "cpu"])

    return run


def test_the_flags_reach_the_run_and_its_counts_are_printed(
    call: Callable[..., Result], tmp_path: Path, table: Path
) -> None:
    write_deltalake(tmp_path / "delta", pq.read_table(table))
    lists = []
    for path in (str(table), "delta"):
        result = call("--items", path, "--where", "price < 10 AND true", "--overwrite")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert "25 items that score.where leaves out" in lines
        assert "19 rows of the items table with an id unknown to the bundle" in lines
        assert "2 items of the bundle without a row in the items table" in lines
        lists.append(rows(tmp_path / "out"))
    assert lists[0] == lists[1]
    done = call("--items", str(table), "--where", "price < 10", "--overwrite", "--json")
    rules = json.loads(done.stdout)["rules"]
    assert rules == {"filtered_items": 25, "unknown_rows": 19, "missing_rows": 2}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--where", "price <"], "score.where: cannot be parsed"),
        (["--where", "price < 10"], "score.where: unknown column price; there are item_id, pop"),
        (["--items", "nowhere.csv", "--where", "price < 10"], "nowhere.csv: cannot be read"),
        (
            ["--items", "other.csv", "--where", "price < 10"],
            "other.csv: no usable column 'item_id'",
        ),
        (["--items", "twice.csv", "--where", "price < 10"], "twice.csv: repeated item ids"),
        (["--items", "own.csv", "--where", "true"], "own.csv: a column 'popularity', which"),
        (["--items", "numbers.parquet", "--where", "true"], "ids of another kind"),
        (["--items", "out/items.csv", "--where", "price < 10"], "output folder holds an input"),
    ],
)
def test_bad_input_gives_one_line(
    call: Callable[..., Result], tmp_path: Path, table: Path, flags: list[str], message: str
) -> None:
    (tmp_path / "other.csv").write_text("id,price\na,1\n")
    (tmp_path / "twice.csv").write_text("item_id,price\na,1\na,2\n")
    (tmp_path / "own.csv").write_text("item_id,popularity\na,1\n")
    pq.write_table(pa.table({"item_id": [1]}), tmp_path / "numbers.parquet")
    result = call(*flags)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()
