"""The items table: what is read of it, and what is refused."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from pipeline.errors import FearecError, InputError, SchemaError
from pipeline.logs.items_table import item_titles, items_table_hash, read_items_table


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "items.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def text(folder: Path, content: str | bytes, name: str = "items.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_titles_by_id_and_none_for_what_has_none(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, item_id=["a", "b", "c"], title=["Alpha", None, "Gamma"], price=[1, 2, 3]
    )
    assert item_titles(path, ["c", "b", "unknown", "a", "a"]) == {"a": "Alpha", "c": "Gamma"}
    assert item_titles(path, []) == {}
    assert read_items_table(path)["price"].to_pylist() == [1, 2, 3]


def test_integer_ids_stay_integers(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=pa.array([7, 8], pa.int32()), title=["Seven", "Eight"])
    assert item_titles(path, [8, 9]) == {8: "Eight"}
    assert read_items_table(str(path))["item_id"].type == pa.int32()


def test_ids_of_any_type_that_logs_may_have(tmp_path: Path) -> None:
    known = UUID("12345678-90ab-cdef-1234-567890abcdef")
    path = parquet(tmp_path, item_id=pa.array([known.bytes], pa.uuid()), title=["One"])
    assert item_titles(path, [str(known)]) == {str(known): "One"}
    path = parquet(tmp_path, item_id=pa.array(["a", "b"]).dictionary_encode(), title=["A", "B"])
    assert item_titles(path, ["b"]) == {"b": "B"}
    path = parquet(tmp_path, item_id=[7.0, 8.0], title=["Seven", "Eight"])
    assert item_titles(path, [8]) == {8: "Eight"}


def test_csv_ids_and_titles_are_text_as_they_stand(tmp_path: Path) -> None:
    content = '\ufefftitle,item_id,price\n"One, two\nthree",007,1.5\n1984,7,2\nNULL,8,\n'
    path = text(tmp_path, content)
    found = item_titles(path, ["007", "7", "8"])
    assert found == {"007": "One, two\nthree", "7": "1984", "8": "NULL"}
    assert item_titles(path, [7]) == {7: "1984"}
    assert read_items_table(path)["price"].to_pylist() == [1.5, 2.0, None]


def test_a_uri_and_an_ending_in_capitals(tmp_path: Path) -> None:
    path = text(tmp_path, "item_id,title\na,Alpha\n", "ITEMS.CSV")
    assert item_titles(path.as_uri(), ["a"]) == {"a": "Alpha"}


def test_a_table_needs_no_titles(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=["a"], price=[Decimal("1.50")], tags=[["x"]])
    table = read_items_table(path)
    assert item_titles(path, ["a"]) is None
    assert table.schema.types == [pa.string(), pa.decimal128(3, 2), pa.list_(pa.string())]


def test_columns_of_a_csv_file_have_the_types_of_their_values(tmp_path: Path) -> None:
    content = "item_id,price,in_stock,since,name\n1,1.5,true,2026-01-02,a\n2,,false,,b\n"
    table = read_items_table(text(tmp_path, content))
    assert table.schema.types == [
        pa.string(), pa.float64(), pa.bool_(), pa.date32(), pa.string()
    ]  # fmt: skip
    assert table["price"].to_pylist() == [1.5, None]


def test_a_delta_table_is_read_at_its_newest_version(tmp_path: Path) -> None:
    path = tmp_path / "items"
    write_deltalake(path, pa.table({"item_id": [1, 2], "title": ["One", "Two"]}))
    first = items_table_hash(path)
    assert item_titles(path, [2, 3]) == {2: "Two"}
    assert items_table_hash(f"{path}/") == first
    rows = pa.table({"item_id": [3], "title": ["Three"]})
    write_deltalake(path, rows, mode="append")
    assert item_titles(f"{path}/", [2, 3]) == {2: "Two", 3: "Three"}
    assert item_titles(path.as_uri(), [3]) == {3: "Three"}
    assert items_table_hash(path) != first


def test_a_delta_table_needs_deltalake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items"
    write_deltalake(path, pa.table({"item_id": [1]}))
    monkeypatch.setitem(sys.modules, "deltalake", None)
    for read in (read_items_table, items_table_hash):
        with pytest.raises(InputError, match="needs the package deltalake") as caught:
            read(path)
        check_one_line(caught.value, path)


def test_a_delta_table_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "_delta_log").mkdir()
    for read in (read_items_table, items_table_hash):
        with pytest.raises(InputError, match="expected a Delta table") as caught:
            read(tmp_path)
        check_one_line(caught.value, tmp_path)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    first = items_table_hash(text(tmp_path, "item_id\na\n"))
    assert items_table_hash(text(tmp_path, "item_id\na\n", "other.csv")) == first
    assert items_table_hash(text(tmp_path, "item_id\nb\n")) != first
    with pytest.raises(InputError, match="an items table") as caught:
        items_table_hash(tmp_path / "none.csv")
    check_one_line(caught.value, tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": ["a"]}, "no usable column 'item_id'"),
        ({"item_id": [0.5], "title": ["a"]}, "an id of type double cannot be used"),
        ({"item_id": [True], "title": ["a"]}, "no usable column 'item_id'; expected whole numbers"),
        ({"item_id": ["a"], "title": [1]}, "no usable column 'title'; expected strings"),
        ({"item_id": ["a", None], "title": ["A", "B"]}, "1 without"),
        ({"item_id": ["a", "b", "a", "b"], "title": ["A"] * 4}, "2 ids with several, such as 'a'"),
    ],
)
def test_another_table_is_refused_in_one_line(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = parquet(tmp_path, **columns)
    with pytest.raises(SchemaError, match=message) as caught:
        read_items_table(path)
    check_one_line(caught.value, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,title,title\na,A,B\n", "no usable column 'title'"),
        ("item_id,title\na,A\na,B\n", "such as 'a'"),
    ],
)
def test_another_csv_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = text(tmp_path, content)
    with pytest.raises(SchemaError, match=message) as caught:
        read_items_table(path)
    check_one_line(caught.value, path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.parquet", b"item_id,title\n"),
        ("items.csv", b""),
        ("items.csv", b"item_id,title\na,\xff\n"),
        ("items.csv", b"item_id,title\na\n"),
        ("items.xlsx", b"PK"),
        ("items", b"item_id,title\na,A\n"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = text(tmp_path, content, name)
    with pytest.raises(InputError) as caught:
        read_items_table(path)
    check_one_line(caught.value, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_items_table(tmp_path / "none.parquet")
    check_one_line(caught.value, tmp_path / "none.parquet")


def check_one_line(error: FearecError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == 2
