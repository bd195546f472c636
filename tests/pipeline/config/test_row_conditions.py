"""Conditions on rows: what is accepted, and every way in which one is refused in one line."""

import re
import time

import duckdb
import pytest

from model.errors import ConfigError
from pipeline.config.row_conditions import as_condition, check_condition, condition_types
from pipeline.config.settings import load_settings
from pipeline.schema import EVENT_TYPE, VALUE

COLUMNS = condition_types((EVENT_TYPE, VALUE))


@pytest.mark.parametrize(
    "text",
    [
        "event_type IN ('purchase', 'view') AND value >= 4",
        "VALUE BETWEEN 1 AND 2 OR value IS NULL",
        "item_id = 'x'",  # with ids that are text
        "item_id = 3 AND user_id LIKE 'a%'",
        "timestamp >= '2026-01-01' AND hour(timestamp) BETWEEN 8 AND 20",
        "nullif(value, 3) IS NULL",
        "TRY_CAST(event_type AS INTEGER) = 3",
        "CASE WHEN value > 1 THEN true END -- and a comment",
    ],
)
def test_an_expression_over_the_columns_is_accepted_and_can_be_used(text: str) -> None:
    check_condition(text, COLUMNS)
    row = "SELECT 'a' AS user_id, 'x' AS item_id, now() AS timestamp, '3' AS event_type, 4 AS value"
    if "= 3 AND" not in text:
        duckdb.sql(f"SELECT {as_condition(text)} AND true FROM ({row})").fetchall()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("value >", "cannot be parsed"),
        ("value >= 4 /*", "cannot be parsed"),
        ("true) OR (true", "cannot be parsed"),
        ("true; DROP TABLE staged", "cannot be parsed"),
        ("true; SELECT true", "must be one expression"),
        ("true, false", "must be one expression"),
        ("true WHERE false", "must be one expression"),
        ("true FROM read_csv('/etc/passwd')", "must be one expression"),
        ("true UNION SELECT true", "must be one expression"),
        ("true ORDER BY 1", "must be one expression"),
        ("true AS name", "must be one expression"),
        ("price > 3", "unknown column price"),
        ("current_date > '2026-01-01'", "unknown column current_date"),
        ("rows.value > 3", "unknown column rows.value"),
        ("value", "but is DOUBLE"),
        ("NULL", "must be a Boolean expression"),
        ("event_type + 1 > 2", "No function matches"),
        ("timestamp >= '2026-13-01'", "Conversion Error"),
        ("count(*) > 1", "the function count_star"),
        ("sum(value) > 1", "the function sum"),
        ("row_number() OVER () = 1", "a window function"),
        ("value > (SELECT 1)", "a subquery"),
        ("EXISTS (FROM read_text('/etc/passwd'))", "a subquery"),
        ("item_id IN (FROM read_text('/etc/passwd'))", "a subquery"),
        ("read_text('/etc/passwd') = 'x'", "the function read_text"),
        ("unnest([true])", "the function unnest"),
        ("random() < 0.5", "the function random"),
        ("timestamp > now()", "the function now"),
        ("timestamp > today()", "the function today"),
        ("current_setting('threads') = '1'", "the function current_setting"),
        ("getvariable('x') = 1", "the function getvariable"),
        ("nothing(value)", "unknown function nothing"),
        ("value > $1", "a parameter"),
        ("*", "* cannot be used"),
        ("COLUMNS(*) > 1", "* cannot be used"),
        ("NOT " * 900 + "true", "too many levels"),
        ("NOT " * 4000 + "true", "cannot be parsed"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        check_condition(text, COLUMNS)
    assert "\n" not in str(raised.value)


def test_a_type_that_the_ids_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="Could not convert string 'x'"):
        check_condition("item_id = 'x'", condition_types((), "VARCHAR", "BIGINT"))


def test_nothing_is_read_or_slept_through() -> None:
    begun = time.perf_counter()
    with pytest.raises(ValueError, match="sleep_ms"):
        check_condition("sleep_ms(60000) IS NULL", COLUMNS)
    assert time.perf_counter() - begun < 30


def test_a_setting_is_checked_when_settings_are_loaded() -> None:
    with pytest.raises(ConfigError, match="unknown column value; there are user_id") as raised:
        load_settings(overrides=["logs.keep=value > 3"])
    assert raised.value.where == "logs.keep"
    named = ["logs.value=rating", "logs.keep=value > 3"]
    assert load_settings(overrides=named).logs.keep == "value > 3"
    emptied = load_settings(overrides=[*named, "logs.keep=", "logs.value="]).logs
    assert (emptied.keep, emptied.value) == (None, None)
