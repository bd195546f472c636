"""Conditions and eligibility over random tables, beside plain Python row by row."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError
from pipeline.rules.attributes import item_attributes
from pipeline.rules.conditions import rows_that
from pipeline.schema import vocabulary_schema
from pipeline.scoring.eligibility import eligible_items
from tests.helpers.conditions import Condition, attributes, conditions

SEEN = datetime(2026, 11, 1, tzinfo=UTC)
COLUMNS = pa.schema(
    [
        ("item_id", pa.int64()),
        ("price", pa.float64()),
        ("stock level", pa.int32()),
        ("maker", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("in_stock", pa.bool_()),
    ]
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The bundle's items, and rows of an items table of some of them and of others."""
    ids = draw(st.lists(st.integers(0, 30), min_size=2, max_size=12, unique=True))
    items = [
        {
            "item_index": index,
            "item_id": item,
            "popularity": draw(st.integers(0, 3)),
            "last_seen": draw(st.sampled_from([None, SEEN])),
        }
        for index, item in enumerate(ids, start=1)
    ]
    known = draw(st.lists(st.integers(0, 30), max_size=15, unique=True))
    return items, [{"item_id": item, **draw(attributes)} for item in known]


def chosen_by(condition: Condition, items: list[dict[str, Any]], rows: list[dict[str, Any]]):
    by_id = {row["item_id"]: row for row in rows}
    nothing = dict.fromkeys(COLUMNS.names)
    return [
        condition.value({**by_id.get(item["item_id"], nothing), **item}) is True for item in items
    ]


@settings(max_examples=50)  # a few databases per example
@given(case=cases(), condition=conditions, allowed=st.none() | st.sets(st.integers(0, 30)))
def test_eligible_are_exactly_the_items_of_which_all_is_true(
    case: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    condition: Condition,
    allowed: set[int] | None,
) -> None:
    items, rows = case
    expected = chosen_by(condition, items, rows)
    kind = pa.int64()
    table = pa.Table.from_pylist(items, vocabulary_schema(kind))
    with TemporaryDirectory() as folder:
        path, allow = str(Path(folder) / "items.parquet"), Path(folder) / "allow.txt"
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), path)
        allow.write_text("".join(f"{item}\n" for item in sorted(allowed or ())))
        found = item_attributes(table, path)
        assert rows_that(condition.text, found.table, "score.where").tolist() == expected
        score = ScoreSettings(
            where=condition.text, top_k=2, allow=None if allowed is None else str(allow)
        )
        before = [
            item["popularity"] > 0 and (allowed is None or item["item_id"] in allowed)
            for item in items
        ]
        eligible = [old and new for old, new in zip(before, expected, strict=True)]
        if not any(eligible):
            with pytest.raises(ConfigError, match=r"no item is left .*score\.where"):
                eligible_items(table, score, None, found)
            return
        result = eligible_items(table, score, None, found)
    assert result.item_bias.tolist() == [-np.inf, *(0 if each else -np.inf for each in eligible)]
    ranked = sorted(
        (-item["popularity"], item["item_index"])
        for item, each in zip(items, eligible, strict=True)
        if each
    )
    assert result.popular.tolist() == [index for _, index in ranked]
    known, listed = ({each["item_id"] for each in table} for table in (items, rows))
    assert result.rules is not None
    assert result.rules.filtered_items == sum(before) - sum(eligible)
    assert result.rules.unknown_rows == len(listed - known)
    assert result.rules.missing_rows == len(known - listed)
