"""Conditions on rows, as settings hold them: Boolean expressions of DuckDB over named columns."""

import atexit
import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

# The kinds of nodes of a syntax tree whose value depends on the row alone.
_ALLOWED = frozenset(
    [
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "TYPE",
    ]
)
_NAMES = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}
# By the names of `pipeline.schema`, which would import Arrow before a command prints its help.
_OF_LOGS = {"timestamp": "TIMESTAMPTZ", "event_type": "VARCHAR", "value": "DOUBLE"}
_MACROS = frozenset({"if", "nullif", "split_part"})  # the built-in ones that are plain expressions


def condition_types(
    optional: Collection[str],
    user: str | tuple[str, ...] = ("VARCHAR", "BIGINT"),
    item: str | tuple[str, ...] = ("VARCHAR", "BIGINT"),
) -> dict[str, str | tuple[str, ...]]:
    """The columns that a condition on the rows of logs may name, with their types in DuckDB.

    Args:
        optional: Those of `event_type` and `value` that the logs have.
        user: The type of the user ids; by default any that there may be.
        item: Likewise of the item ids.
    """
    others = {name: _OF_LOGS[name] for name in ("timestamp", *optional)}
    return {"user_id": user, "item_id": item, **others}


def check_condition(text: str, columns: Mapping[str, str | tuple[str, ...]] | None) -> None:
    """Check that a text is one Boolean expression whose value depends on a row's columns alone.

    Subqueries, aggregates, table functions, and functions of chance, time or the session are
    refused. Nothing is read or run but the expression itself, on one row of nulls.

    Args:
        text: The expression.
        columns: The DuckDB type of each column that it may name, or all the types that the column
            may turn out to have. None where they are not known yet: names and types of columns are
            then not checked.

    Raises:
        ValueError: it is not; the message is one line.
    """
    with sealed_database() as db:
        tree = _parsed(text, db)
        for node in _nodes(tree):
            _check_node(node, columns)
        if columns is None:
            return
        types = [(kind,) if isinstance(kind, str) else kind for kind in columns.values()]
        failures = [
            _failure(text, dict(zip(columns, chosen, strict=True)), db)
            for chosen in product(*types)
        ]
    if all(failures):
        raise ValueError(failures[0])


def as_condition(text: str) -> str:
    """A checked expression in parentheses, to be used in a query."""
    return f"({text}\n)"  # it may end with a comment


def sealed_database() -> "duckdb.DuckDBPyConnection":
    """A connection to an empty database that sees no file, for expressions of others.

    What one connection registers or makes in `temp` is gone when it is closed, and is hidden from
    the others. Times without a zone are in UTC. No setting can be changed.
    """
    return _database().cursor()


@cache
def _database() -> "duckdb.DuckDBPyConnection":
    # Kept: opening one takes ten times longer than most expressions, of which there may be many.
    import duckdb

    config: dict[str, Any] = {"enable_external_access": False, "threads": 1}
    db = duckdb.connect(config=config)
    db.execute("SET GLOBAL TimeZone = 'UTC'")
    db.execute("SET lock_configuration = true")
    atexit.register(_database.cache_clear)  # DuckDB complains of objects that live longer
    return db


def _parsed(text: str, db: "duckdb.DuckDBPyConnection") -> Any:
    """The syntax tree of an expression."""
    ((written,),) = db.execute("SELECT json_serialize_sql(?)", [f"SELECT {text}\n"]).fetchall()
    try:
        parsed = json.loads(written)
        list(_nodes(parsed))
    except RecursionError:
        raise ValueError("too many levels of parentheses") from None
    if parsed["error"]:
        raise ValueError(f"cannot be parsed: {parsed['error_message'].splitlines()[0]}")
    statements = parsed["statements"]
    query = statements[0]["node"] if len(statements) == 1 else {}
    expected: dict[str, Any] = {
        "type": "SELECT_NODE",
        "modifiers": [],
        "where_clause": None,
        "group_expressions": [],
        "having": None,
        "qualify": None,
        "sample": None,
    }
    is_expression = all(query.get(name) == value for name, value in expected.items())
    selected = query.get("select_list", [])
    if (
        not is_expression
        or len(selected) != 1
        or query["from_table"]["type"] != "EMPTY"
        or query["cte_map"]["map"]
        or selected[0]["alias"]
    ):
        raise ValueError("must be one expression, without clauses of a query")
    return selected[0]


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """All nodes of a syntax tree, outer ones first."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for part in tree.values():
            yield from _nodes(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


def _check_node(node: Mapping[str, Any], columns: Mapping[str, Any] | None) -> None:
    kind = node["class"]
    if kind not in _ALLOWED:
        raise ValueError(f"{_NAMES.get(kind, kind)} cannot be used in a condition on rows")
    if kind == "COLUMN_REF" and columns is not None:
        _check_column(node["column_names"], columns)
    if kind == "FUNCTION":
        _check_function(node["function_name"].lower())


def _check_column(path: list[str], columns: Mapping[str, Any]) -> None:
    """Check that a reference is a column's name, or a field's inside a column of structs."""
    kind = next((kind for name, kind in columns.items() if name.lower() == path[0].lower()), None)
    if kind is None or (len(path) > 1 and not str(kind).startswith("STRUCT")):
        raise ValueError(f"unknown column {'.'.join(path)}; there are {', '.join(columns)}")


def _check_function(name: str) -> None:
    found = _functions().get(name)
    if not found:
        raise ValueError(f"unknown function {name}")
    if name not in _MACROS and found != {("scalar", "CONSISTENT")}:
        raise ValueError(f"the function {name} cannot be used: its value must follow from the row")


@cache
def _functions() -> dict[str, set[tuple[str, str]]]:
    """The kinds and stabilities of all functions of a name."""
    kinds: dict[str, set[tuple[str, str]]] = {}
    with sealed_database() as db:
        rows = db.execute(
            "SELECT DISTINCT function_name, function_type, stability FROM duckdb_functions()"
        ).fetchall()
    for name, kind, stability in rows:
        kinds.setdefault(name, set()).add((kind, stability))
    return kinds


def _failure(text: str, columns: Mapping[str, str], db: "duckdb.DuckDBPyConnection") -> str | None:
    """Why an expression has no Boolean value for columns of some types; None if it has."""
    import duckdb

    row = ", ".join(f"CAST(NULL AS {kind}) AS {_quoted(name)}" for name, kind in columns.items())
    db.execute(f"CREATE OR REPLACE TEMP TABLE one_row AS SELECT {row}")
    query = f"SELECT {as_condition(text)} FROM one_row"
    try:
        kind = db.execute(f"DESCRIBE {query}").fetchall()[0][1]
        db.execute(query).fetchall()
    except duckdb.Error as error:
        return " ".join(str(error).splitlines()[0].split())
    return None if kind == "BOOLEAN" else f"must be a Boolean expression, but is {kind}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
