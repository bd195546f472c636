"""Other people's formats: where a line holds user, item and time, and what makes it bad.

A format becomes a `Reading`: DuckDB's SQL for lines that
`pipeline.logs.imports.text_lines` numbers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import ConfigError, SchemaError
from pipeline.logs.imports.options import Columns, Format, Unit
from pipeline.logs.validation import EARLIEST
from pipeline.schema import ITEM_ID, TIMESTAMP, USER_ID

# Sequences have an order and no times: the n-th item of everyone is n seconds after this.
SEQUENCES_START = "2000-01-01 00:00:00+00"

_RATINGS = ["userId", "movieId", "rating", "timestamp"]
_LAST = "9999-12-31 00:00:00+00"  # Python's calendar ends there
# Microseconds since the epoch; more digits than these are not a time, NaN and infinity neither.
_NUMBER = {
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
    """A way in which a line is bad: a condition and a value it found, in SQL, and the words."""

    condition: str
    what: str
    expected: str
    found: str = "text"


@dataclass(frozen=True)
class Reading:
    """How lines become events.

    Attributes:
        first: The first line that holds data.
        parsed: SELECT of the table `lines`: its columns, `text`, and what the rest needs.
        rules: On rows of `parsed`; the first one that holds is the line's fault.
        events: Columns to SELECT of the good rows of `parsed`, one row an event.
    """

    first: int
    parsed: str
    rules: tuple[Rule, ...]
    events: str

    def fault(self) -> str:
        """The place in `rules` of what is wrong with a row of `parsed`, or NULL, as SQL."""
        return _case((rule.condition, str(place)) for place, rule in enumerate(self.rules))

    def told(self) -> str:
        """Columns to SELECT of the bad rows: line, what, expected, found and the line's text."""
        what, expected, found = (
            _case((f"fault = {place}", words) for place, words in enumerate(each))
            for each in (
                [_literal(rule.what) for rule in self.rules],
                [_literal(rule.expected) for rule in self.rules],
                [rule.found for rule in self.rules],
            )
        )
        return f"line, {what}, {expected}, {found}, coalesce(text, CAST(raw AS VARCHAR))"


_NOT_TEXT = Rule("text IS NULL", "not UTF-8 text", "UTF-8", "CAST(raw AS VARCHAR)")
_TEXT = "raw, TRY(decode(raw)) AS text"


def reading(kind: Format, columns: Columns, number: int, line: str, where: str) -> Reading:
    """How to read a file.

    Args:
        kind: Its format.
        columns: What the user says of its columns.
        number: Of its first line that is not blank.
        line: That line.
        where: The file, for errors.

    Raises:
        ConfigError: `columns` says what the format does not allow.
        SchemaError: the header lacks a column, or the file is not of that format.
    """
    _refuse_idle(kind, columns)
    where = f"{where}, line {number}"
    if kind == "sequences":
        return _sequences(number)
    if kind == "recbole":
        header = _recbole_header(line.split("\t"), where)
        user, item, timestamp = _wanted(header, columns, where)
        return _delimited(number + 1, "\t", len(header), user, item, timestamp, columns.unit)
    if kind == "movielens":
        return _movielens(number, line, where)
    return _csv(number, line, columns, where)


def _refuse_idle(kind: Format, columns: Columns) -> None:
    flags = {
        "--user": columns.user,
        "--item": columns.item,
        "--timestamp": columns.timestamp,
        "--timestamp-unit": columns.unit,
        "--delimiter": columns.delimiter,
        "--no-header": not columns.header,
    }
    obeyed = {"csv": list(flags), "recbole": list(flags)[:4]}.get(kind, [])
    idle = [flag for flag, value in flags.items() if value and flag not in obeyed]
    if idle:
        raise ConfigError(f"not for the format {kind}", ", ".join(idle))


def _recbole_header(header: list[str], where: str) -> list[str]:
    names = [field.partition(":") for field in header]
    untyped = [name for name, colon, _ in names if not colon]
    if untyped:
        raise SchemaError(
            "not the header of a RecBole file",
            where,
            expected="names with types, between tabs, such as user_id:token",
            found=repr(_short("\t".join(header))),
        )
    return [name for name, _, _ in names]


def _movielens(number: int, line: str, where: str) -> Reading:
    if line.replace('"', "").split(",") == _RATINGS:
        return _delimited(number + 1, ",", 4, 1, 2, 4, "s", quoted=True)
    for delimiter in ("::", "\t"):
        if delimiter in line:
            return _delimited(number, delimiter, 4, 1, 2, 4, "s")
    raise SchemaError(
        "not a file of MovieLens ratings",
        where,
        expected="u.data (fields between tabs), ratings.dat (between ::) or ratings.csv "
        f"(header {','.join(_RATINGS)})",
        found=repr(_short(line)),
    )


def _csv(number: int, line: str, columns: Columns, where: str) -> Reading:
    delimiter = "," if columns.delimiter is None else columns.delimiter.replace(r"\t", "\t")
    if not delimiter or any(each in delimiter for each in '"\n\r'):
        raise ConfigError("cannot stand between fields", "--delimiter", found=repr(delimiter))
    quoted = len(delimiter) == 1
    fields = line.split(delimiter)
    if quoted:
        found = re.findall(_field(delimiter), delimiter + line)
        if "".join(found) == delimiter + line:
            fields = [field[1:] for field in found]
        fields = [field.strip().strip('"') for field in fields]
    header = [field.strip() for field in fields]
    if not columns.header:
        header = [str(position) for position in range(1, len(fields) + 1)]
        if None in (columns.user, columns.item, columns.timestamp):
            raise ConfigError(
                "without a header the columns have numbers only",
                "--no-header",
                expected="--user, --item and --timestamp with numbers from 1",
            )
    user, item, timestamp = _wanted(header, columns, where)
    return _delimited(
        number + columns.header,
        delimiter,
        len(header),
        user,
        item,
        timestamp,
        columns.unit,
        quoted=quoted,
    )


def _wanted(header: list[str], columns: Columns, where: str) -> list[int]:
    """The positions of user, item and timestamp, from 1."""
    flags = {
        "--user": columns.user or USER_ID,
        "--item": columns.item or ITEM_ID,
        "--timestamp": columns.timestamp or TIMESTAMP,
    }
    for flag, name in flags.items():
        if header.count(name) != 1:
            raise SchemaError(
                f"{'several columns' if name in header else 'no column'} {name!r}",
                where,
                found="columns " + _short(", ".join(map(repr, header))),
                remedy=f"Name the right column with {flag}.",
            )
    if len(set(flags.values())) < len(flags):
        found = ", ".join(map(repr, flags.values()))
        raise ConfigError("one column named twice", ", ".join(flags), found=found)
    return [header.index(name) + 1 for name in flags.values()]


def _delimited(
    first: int,
    delimiter: str,
    n_fields: int,
    user: int,
    item: int,
    timestamp: int,
    unit: Unit | None,
    *,
    quoted: bool = False,
) -> Reading:
    unit = unit or "s"
    fields = f"string_split(text, {_literal(delimiter)})"
    rules = [_NOT_TEXT]
    if quoted:
        fields = f"""CASE WHEN NOT contains(text, '"') THEN {fields}
            ELSE {_unquoted(delimiter)} END"""
        rules.append(
            Rule(
                "fields IS NULL",
                "a double quote out of place",
                "a field quoted from end to end, on one line, with quotes inside it doubled",
            )
        )
    if unit == "iso":
        time = f"TRY_CAST(fields[{timestamp}] AS TIMESTAMPTZ)"
    else:
        number = _NUMBER[unit].format(f"fields[{timestamp}]")
        time = f"make_timestamptz(CAST({number} AS BIGINT))"
    rules += [
        Rule(
            f"len(fields) <> {n_fields}",
            "wrong number of fields",
            f"{n_fields} fields, {_named(delimiter)} between them",
            "concat(len(fields), ' in ', text)",
        ),
        Rule(f"trim(fields[{user}]) = ''", "the user id is empty", f"an id in field {user}"),
        Rule(f"trim(fields[{item}]) = ''", "the item id is empty", f"an id in field {item}"),
        Rule(
            f"({TIMESTAMP} BETWEEN TIMESTAMPTZ '{EARLIEST}' AND TIMESTAMPTZ '{_LAST}') IS NOT TRUE",
            "the timestamp is no time of 1990 or later",
            f"{_EXPECTED_TIME[unit]} in field {timestamp}",
            f"fields[{timestamp}]",
        ),
    ]
    return Reading(
        first,
        f"SELECT *, {time} AS {TIMESTAMP} FROM (SELECT line, raw, text, {fields} AS fields "
        f"FROM (SELECT line, {_TEXT} FROM lines))",
        tuple(rules),
        f"fields[{user}] AS {USER_ID}, fields[{item}] AS {ITEM_ID}, {TIMESTAMP}, line",
    )


def _unquoted(delimiter: str) -> str:
    """The fields of a `text` with quotes, as SQL; NULL where they do not fit."""
    whole = f"{_literal(delimiter)} || text"
    found = f"regexp_extract_all({whole}, {_literal(_field(delimiter))})"
    bare = f"""list_transform({found}, lambda field: CASE WHEN field[2] = '"'
        THEN replace(field[3:-2], '""', '"') ELSE field[2:] END)"""
    return f"CASE WHEN array_to_string({found}, '') = {whole} THEN {bare} END"


def _field(delimiter: str) -> str:
    """The regular expression of a field, quoted or without a quote, after the delimiter."""
    end = re.escape(delimiter)
    return rf'{end}(?:"(?:[^"]|"")*"|[^"{end}]*)'


def _sequences(first: int) -> Reading:
    return Reading(
        first,
        f"SELECT *, string_split_regex(trim(text, chr(32) || chr(9)), '[ \\t]+') AS fields "
        f"FROM (SELECT line, {_TEXT} FROM lines)",
        (
            _NOT_TEXT,
            Rule("len(fields) < 2", "no item", "a user and items, spaces between them"),
        ),
        f"fields[1] AS {USER_ID}, unnest(fields[2:]) AS {ITEM_ID}, "
        f"unnest(generate_series(TIMESTAMPTZ '{SEQUENCES_START}', TIMESTAMPTZ "
        f"'{SEQUENCES_START}' + to_seconds(len(fields) - 2), INTERVAL 1 SECOND)) AS {TIMESTAMP}, "
        "line",
    )


def _case(cases: Iterable[tuple[str, str]]) -> str:
    return "CASE " + " ".join(f"WHEN {when} THEN {then}" for when, then in cases) + " END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _named(delimiter: str) -> str:
    return {"\t": "tabs", " ": "spaces"}.get(delimiter, repr(delimiter))


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "..."
