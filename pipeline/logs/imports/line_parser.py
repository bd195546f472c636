"""The parser of a file's lines as DuckDB SQL: rules for bad lines, and the events of good ones."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.logs.conversion import time_sql
from pipeline.logs.imports.options import Unit
from pipeline.logs.validation import EARLIEST
from pipeline.schema import ITEM_ID, TIMESTAMP, USER_ID

# Sequences have an order but no times: every user's n-th item is n seconds after this time.
SEQUENCES_START = "2000-01-01 00:00:00+00"

_LATEST = "9998-12-30 23:59:59.999999+00"  # the day after it is a run date
# Microseconds since the epoch. A number with more digits, NaN and infinity are not timestamps.
_MICROSECONDS = {
    "s": "CAST(TRY_CAST({0} AS DECIMAL(18, 6)) AS DOUBLE) * 1e6",
    "ms": "CAST(TRY_CAST({0} AS DECIMAL(18, 3)) AS DOUBLE) * 1e3",
}
_EXPECTED_TIME = {
    "s": "seconds since the epoch",
    "ms": "milliseconds since the epoch",
    "iso": "a time such as 2026-06-01T12:00:00Z",
}


@dataclass(frozen=True)
class Rule:
    """A rule that bad lines break.

    Attributes:
        condition: SQL that is true of a bad line.
        what: What is wrong with it, for the message.
        expected: What was expected instead, for the message.
        found: SQL of what was found.
    """

    condition: str
    what: str
    expected: str
    found: str = "text"


@dataclass(frozen=True)
class LineParser:
    """SQL that makes events of lines.

    Attributes:
        first: Number of the first line that holds data.
        parsed: SELECT from the table `lines`: `line`, `raw`, `text`, and what the rest needs.
        rules: Rules for rows of `parsed`; the first one that a line breaks is reported.
        events: Columns to SELECT from good rows of `parsed`; one row per event.
    """

    first: int
    parsed: str
    rules: tuple[Rule, ...]
    events: str

    def broken_rule(self) -> str:
        """SQL of the index of the rule that a row of `parsed` breaks; NULL for a good row."""
        return _case((rule.condition, str(index)) for index, rule in enumerate(self.rules))

    def bad_lines(self) -> str:
        """Columns to SELECT from bad rows: the line's number, what, expected, found, its text."""
        what, expected, found = (
            _case((f"broken_rule = {index}", sql) for index, sql in enumerate(column))
            for column in (
                [_literal(rule.what) for rule in self.rules],
                [_literal(rule.expected) for rule in self.rules],
                [rule.found for rule in self.rules],
            )
        )
        return f"line, {what}, {expected}, {found}, coalesce(text, CAST(raw AS VARCHAR))"


_UTF8 = Rule("text IS NULL", "not UTF-8 text", "UTF-8", "CAST(raw AS VARCHAR)")
_DECODED = "SELECT line, raw, TRY(decode(raw)) AS text FROM lines"


def delimited_parser(
    first: int,
    delimiter: str,
    n_fields: int,
    user: int,
    item: int,
    timestamp: int,
    unit: Unit | None,
    *,
    quoted: bool = False,
) -> LineParser:
    """The parser of lines of fields, one event per line.

    Args:
        first: Number of the first line that holds data.
        delimiter: Text between two fields.
        n_fields: Number of fields in every line.
        user: Number of the field, from 1.
        item: Likewise.
        timestamp: Likewise.
        unit: Unit of the timestamps, seconds by default.
        quoted: Whether fields may stand between double quotes.
    """
    unit = unit or "s"
    fields = f"string_split(text, {_literal(delimiter)})"
    rules = [_UTF8]
    if quoted:
        fields = f"""CASE WHEN NOT contains(text, '"') THEN {fields}
            ELSE {_unquoted_fields(delimiter)} END"""
        rules.append(
            Rule(
                "fields IS NULL",
                "a double quote out of place",
                "a field quoted from end to end, on one line, with quotes inside it doubled",
            )
        )
    if unit == "iso":
        time = time_sql(f"fields[{timestamp}]")
    else:
        microseconds = _MICROSECONDS[unit].format(f"fields[{timestamp}]")
        time = f"make_timestamptz(CAST({microseconds} AS BIGINT))"
    rules += [
        Rule(
            f"len(fields) <> {n_fields}",
            "wrong number of fields",
            f"{n_fields} fields with {_name_of(delimiter)} between them",
            "concat(len(fields), ' in ', text)",
        ),
        Rule(f"trim(fields[{user}]) = ''", "the user id is empty", f"an id in field {user}"),
        Rule(f"trim(fields[{item}]) = ''", "the item id is empty", f"an id in field {item}"),
        Rule(
            f"({TIMESTAMP} BETWEEN TIMESTAMPTZ '{EARLIEST}' AND TIMESTAMPTZ '{_LATEST}') "
            "IS NOT TRUE",
            "the timestamp is not a time of the years 1990 to 9998",
            f"{_EXPECTED_TIME[unit]} in field {timestamp}",
            f"fields[{timestamp}]",
        ),
    ]
    return LineParser(
        first,
        f"SELECT *, {time} AS {TIMESTAMP} FROM (SELECT *, {fields} AS fields FROM ({_DECODED}))",
        tuple(rules),
        f"fields[{user}] AS {USER_ID}, fields[{item}] AS {ITEM_ID}, {TIMESTAMP}, line",
    )


def sequences_parser(first: int) -> LineParser:
    """The parser of lines of a user and their items in order, spaces or tabs between them."""
    return LineParser(
        first,
        f"SELECT *, string_split_regex(trim(text, chr(32) || chr(9)), '[ \\t]+') AS fields "
        f"FROM ({_DECODED})",
        (_UTF8, Rule("len(fields) < 2", "no item", "a user and items with spaces between them")),
        f"fields[1] AS {USER_ID}, unnest(fields[2:]) AS {ITEM_ID}, "
        f"unnest(generate_series(TIMESTAMPTZ '{SEQUENCES_START}', TIMESTAMPTZ "
        f"'{SEQUENCES_START}' + to_seconds(len(fields) - 2), INTERVAL 1 SECOND)) AS {TIMESTAMP}, "
        "line",
    )


def field_pattern(delimiter: str) -> str:
    """The regular expression of a delimiter and a field after it, quoted or without quotes."""
    end = re.escape(delimiter)
    return rf'{end}(?:"(?:[^"]|"")*"|[^"{end}]*)'


def _unquoted_fields(delimiter: str) -> str:
    """SQL of the fields of a `text` with quotes; NULL where a quote is out of place."""
    whole = f"{_literal(delimiter)} || text"
    found = f"regexp_extract_all({whole}, {_literal(field_pattern(delimiter))})"
    unquoted = f"""list_transform({found}, lambda field: CASE WHEN field[2] = '"'
        THEN replace(field[3:-2], '""', '"') ELSE field[2:] END)"""
    return f"CASE WHEN array_to_string({found}, '') = {whole} THEN {unquoted} END"


def _case(cases: Iterable[tuple[str, str]]) -> str:
    return "CASE " + " ".join(f"WHEN {when} THEN {then}" for when, then in cases) + " END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name_of(delimiter: str) -> str:
    return {"\t": "tabs", " ": "spaces"}.get(delimiter, repr(delimiter))
