"""Random conditions on items, as DuckDB's text and as a function of one row in plain Python.

A condition's value is true, false or None, which SQL calls null, by the logic of three values.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Row = Mapping[str, Any]
Truth = bool | None

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TEXTS = ("a", "ab", "b", "")


@dataclass(frozen=True)
class Condition:
    text: str
    value: Callable[[Row], Truth]


def not_(inner: Condition) -> Condition:
    def value(row: Row) -> Truth:
        found = inner.value(row)
        return None if found is None else not found

    return Condition(f"NOT ({inner.text})", value)


def both(one: Condition, other: Condition) -> Condition:
    def value(row: Row) -> Truth:
        found = {one.value(row), other.value(row)}
        return False if False in found else None if None in found else True

    return Condition(f"({one.text}) AND ({other.text})", value)


def either(one: Condition, other: Condition) -> Condition:
    def value(row: Row) -> Truth:
        found = {one.value(row), other.value(row)}
        return True if True in found else None if None in found else False

    return Condition(f"({one.text}) OR ({other.text})", value)


def of_value(text: str, name: str, function: Callable[[Any], bool]) -> Condition:
    """A condition on one column that is null where the column is."""

    def value(row: Row) -> Truth:
        return None if row[name] is None else function(row[name])

    return Condition(text, value)


def compared(name: str, symbol: str, number: int) -> Condition:
    compare = COMPARISONS[symbol]
    return of_value(f'"{name}" {symbol} {number}', name, lambda found: compare(found, number))


def between(name: str, low: int, high: int) -> Condition:
    return of_value(f"{name} BETWEEN {low} AND {high}", name, lambda found: low <= found <= high)


def among(name: str, texts: list[str]) -> Condition:
    listed = ", ".join(f"'{text}'" for text in texts)
    return of_value(f"{name} IN ({listed})", name, lambda found: found in texts)


def begins(name: str, text: str) -> Condition:
    return of_value(f"{name} LIKE '{text}%'", name, lambda found: found.startswith(text))


def contains(name: str, text: str) -> Condition:
    return of_value(f"list_contains({name}, '{text}')", name, lambda found: text in found)


def is_null(name: str) -> Condition:
    return Condition(f'"{name}" IS NULL', lambda row: row[name] is None)


def flag(name: str) -> Condition:
    return of_value(name.upper(), name, bool)


numbers = st.sampled_from(["price", "stock level", "popularity"])
texts = st.sampled_from(TEXTS)
small = st.integers(-2, 4)
leaves = st.one_of(
    st.builds(compared, numbers, st.sampled_from(sorted(COMPARISONS)), small),
    st.builds(between, st.just("price"), small, small),
    st.builds(among, st.just("maker"), st.lists(texts, min_size=1, max_size=3)),
    st.builds(begins, st.just("maker"), texts),
    st.builds(contains, st.just("tags"), texts),
    st.builds(is_null, st.sampled_from(["price", "maker", "tags", "in_stock", "last_seen"])),
    st.just(flag("in_stock")),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(not_, inner), st.builds(both, inner, inner), st.builds(either, inner, inner)
    ),
    max_leaves=5,
)
attributes = st.fixed_dictionaries(
    {
        "price": st.none() | st.sampled_from([-1.5, 0.0, 1.0, 2.5, 3.0]),
        "stock level": st.none() | small,
        "maker": st.none() | texts,
        "tags": st.none() | st.lists(texts, max_size=2),
        "in_stock": st.none() | st.booleans(),
    }
)
