"""Conditions on items: what is accepted, and every way in which one is refused in one line."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError
from pipeline.rules.attributes import Attributes
from pipeline.rules.conditions import rows_that

SEEN = datetime(2026, 11, 1, tzinfo=UTC)
TABLE = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "popularity": [4, 3, 2, 0],
        "last_seen": pa.array([SEEN, SEEN, None, None], pa.timestamp("us", "UTC")),
        "in_stock": [True, False, None, True],
        "price": [1.5, 200.0, None, 3.0],
        "since": pa.array([date(2026, 1, 1), date(2026, 6, 1), None, None]),
        "Category Name": pa.array(["toys", "books", None, "toys"]).dictionary_encode(),
        "tags": [["new", "red"], [], None, ["red"]],
        "select": [1, 2, 3, None],
        'a"b': [1, 2, 3, 4],
        "maker": [{"land": "fr"}, {"land": "de"}, None, {"land": None}],
        "nothing": pa.nulls(4),
        "half": pa.nulls(4, pa.float16()),  # which DuckDB does not have
    }
)
ATTRIBUTES = Attributes(TABLE, TABLE.slice(0, 0), 0)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("in_stock", "ad"),
        ("NOT in_stock", "b"),
        ("IN_STOCK AND Price < 100", "ad"),
        ("price BETWEEN 2 AND 200 -- and a comment", "bd"),
        ("since >= '2026-02-01'", "b"),
        ("\"Category Name\" = 'toys' AND popularity > 0", "a"),
        ("\"category name\" LIKE 'b%'", "b"),
        ("'red' IN tags", "ad"),
        ("list_contains(tags, 'new') OR len(tags) = 0", "ab"),
        ("tags[1] = 'red'", "d"),
        ('"select" > 1', "bc"),
        ('"a""b" % 2 = 0', "bd"),
        ("maker.land = 'fr'", "a"),
        ("nothing IS NULL", "abcd"),
        ("price IS NULL OR item_id IN ('b')", "bc"),
        ("last_seen = '2026-11-01 00:00:00'", "ab"),  # in UTC, wherever this runs
        ("NULL::BOOLEAN", ""),
        ("true", "abcd"),
    ],
)
def test_a_condition_chooses_the_items_for_which_it_is_true(where: str, expected: str) -> None:
    chosen = rows_that(where, ATTRIBUTES.table, "score.where")
    assert "".join(pa.array(["a", "b", "c", "d"]).filter(pa.array(chosen)).to_pylist()) == expected
    assert ScoreSettings(where=where).where == where


SYNTAX = [
    ("price >", "cannot be parsed"),
    ("item_id = ANY(tags)", "a subquery"),
    ("unnest(tags) = 'red'", "the function unnest"),
    ("random() < 0.5", "the function random"),
]
TYPES = [
    ("colour = 'red'", "unknown column colour; there are item_id, popularity, last_seen, in_stock"),
    ("current_date > since", "unknown column current_date"),
    ("items.price > 3", "unknown column items.price"),
    ("half > 1", "unknown column half"),
    ("price", "must be a Boolean expression, but is DOUBLE"),
    ("price + in_stock > 3", "No function matches"),
    ("since > 'soon'", "Conversion Error"),
    ("item_id::INTEGER > 3", "Could not convert string 'a' to INT32"),
    ("maker.town = 'x'", "town"),
    ("regexp_matches(item_id, '[')", "missing ]"),
]


@pytest.mark.parametrize(("where", "message"), SYNTAX + TYPES)
def test_anything_else_is_refused_in_one_line(where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        rows_that(where, ATTRIBUTES.table, "score.segment.where")
    assert str(caught.value).startswith("score.segment.where: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("where", "message"), SYNTAX)
def test_what_no_table_can_make_right_is_refused_with_the_settings(
    where: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_settings(overrides=[f"score.where={where}"])
    assert caught.value.where == "score.where"


@pytest.mark.parametrize(("where", "message"), TYPES)
def test_what_depends_on_the_table_is_not_refused_with_the_settings(
    where: str, message: str
) -> None:
    assert load_settings(overrides=[f"score.where={where}"]).score.where == where


def test_an_empty_setting_is_none() -> None:
    assert load_settings(overrides=["score.where="]).score.where is None


def test_no_file_is_read_by_the_name_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for where in (f"\"{tmp_path}/secret.csv\" = 'a'", f"'{tmp_path}/secret.csv'.a = 1"):
        with pytest.raises(ConfigError):
            rows_that(where, ATTRIBUTES.table, "score.where")
