"""A bundle's items joined with the items table."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import FearecError, SchemaError
from pipeline.rules.attributes import item_attributes
from pipeline.schema import vocabulary_schema

SEEN = datetime(2026, 11, 1, tzinfo=UTC)


def bundle_items(ids: list[Any]) -> pa.Table:
    schema = vocabulary_schema(pa.array(ids).type)
    index = list(range(1, len(ids) + 1))
    return pa.table([index, ids, index, [SEEN] * len(ids)], names=schema.names).cast(schema)


def parquet(folder: Path, **columns: Any) -> str:
    path = folder / "items.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def text(folder: Path, content: str) -> str:
    path = folder / "items.csv"
    path.write_text(content)
    return str(path)


def test_rows_are_joined_by_id_in_the_order_of_the_bundle(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=["c", "new", "a"], price=[3, 9, 1], tags=[["x"], [], None])
    found = item_attributes(bundle_items(["a", "b", "c"]), path)
    assert found.table.to_pylist() == [
        {"item_id": "a", "popularity": 1, "last_seen": SEEN, "price": 1, "tags": None},
        {"item_id": "b", "popularity": 2, "last_seen": SEEN, "price": None, "tags": None},
        {"item_id": "c", "popularity": 3, "last_seen": SEEN, "price": 3, "tags": ["x"]},
    ]
    assert found.others.to_pylist() == [
        {"item_id": "new", "popularity": 0, "last_seen": None, "price": 9, "tags": []}
    ]
    assert found.others.schema == found.table.schema
    assert (found.n_unknown, found.n_missing) == (1, 1)


def test_without_a_table_the_bundles_columns_are_all(tmp_path: Path) -> None:
    found = item_attributes(bundle_items(["a", "b"]), None)
    assert found.table.column_names == ["item_id", "popularity", "last_seen"]
    assert (len(found.table), found.n_unknown, found.n_missing) == (2, 0, 0)


def test_an_empty_table_knows_nothing(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=pa.nulls(0), price=pa.array([], pa.int64()))
    for ids in (["a", "b"], [1, 2]):
        found = item_attributes(bundle_items(ids), path)
        assert found.table["price"].to_pylist() == [None, None]
        assert (found.n_unknown, found.n_missing) == (0, 2)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint64(), pa.float64()])
def test_integers_of_any_width_are_compared(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path, item_id=pa.array([8, 7, 9], kind), price=[80, 70, 90])
    found = item_attributes(bundle_items([7, 8]), path)
    assert found.table["price"].to_pylist() == [70, 80]
    assert found.others["item_id"].to_pylist() == [9]


def test_ids_of_a_csv_file_are_compared_as_text_and_without_quotes(tmp_path: Path) -> None:
    path = text(tmp_path, "item_id,price\n 7 ,70\n'8',80\n007,1\nnine,2\n")
    found = item_attributes(bundle_items([7, 8]), path)
    assert found.table["price"].to_pylist() == [70, 80]
    assert found.others["item_id"].to_pylist() == ["007", "nine"]
    found = item_attributes(bundle_items(["7", "'8'"]), path)
    assert found.table["price"].to_pylist() == [70, 80]


def test_integers_of_a_csv_file_may_have_a_fraction_of_zeros(tmp_path: Path) -> None:
    found = item_attributes(bundle_items([7, 8]), text(tmp_path, "item_id,price\n7.0,70\n7.5,1\n"))
    assert found.table["price"].to_pylist() == [70, None]
    assert found.others["item_id"].to_pylist() == ["7.5"]
    with pytest.raises(SchemaError, match="several rows for one item"):
        item_attributes(bundle_items([7, 8]), text(tmp_path, "item_id,price\n7.0,70\n7,1\n"))
    found = item_attributes(bundle_items(["7"]), text(tmp_path, "item_id,price\n7.0,70\n"))
    assert found.others["item_id"].to_pylist() == ["7.0"]


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        ([1], {"item_id": ["a"]}, "ids of another kind; expected int64 as in the bundle"),
        (["a"], {"item_id": [1]}, "ids of another kind; expected string as in the bundle"),
        (["a"], {"item_id": ["a"], "Popularity": [1]}, "a column 'Popularity', which the model"),
        (["a"], {"item_id": ["a"], "last_seen": [1]}, "a column 'last_seen', which the model"),
        (["a"], {"item_id": ["a"], "Price": [1], "price": [1]}, "names.*found Price, price"),
        (["a"], {"item_id": ["a", " a "]}, "several rows for one item.*such as 'a'"),
        (["a"], {"item_id": ["a", "a"]}, "repeated item ids"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused_in_one_line(
    tmp_path: Path, ids: list[Any], columns: dict[str, Any], message: str
) -> None:
    path = parquet(tmp_path, **columns)
    with pytest.raises(SchemaError, match=message) as caught:
        item_attributes(bundle_items(ids), path)
    error: FearecError = caught.value
    assert path in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == 2
