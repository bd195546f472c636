"""The items table: one row per item with its id, its title and whatever else is known of it."""

import os
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from pipeline.errors import InputError, SchemaError, raised_as
from pipeline.logs.conversion import ID_TYPES, plain_id_type, plain_ids
from pipeline.logs.log_files import read_failure
from pipeline.schema import ITEM_ID, TITLE, is_id_type
from pipeline.storage.folders import open_filesystem


def read_items_table(path: str | os.PathLike[str]) -> pa.Table:
    """The items table, checked.

    Args:
        path: A local path or an object's URI that ends in ``.parquet`` or ``.csv``. A CSV file has
            a header; its ids and titles are read as text, as they stand.

    Returns:
        `item_id` (integer or string, each once), `title` (string, null where there is none) and
        the file's other columns.

    Raises:
        InputError: the file is missing, cannot be read, or has another ending.
        SchemaError: a column is missing or has a wrong type, an id is missing or repeated.
    """
    where = os.fspath(path)
    table = _read(where)
    item, title = _type_of(table, ITEM_ID), _type_of(table, TITLE)
    kind = None if item is None else plain_id_type(item)
    if kind is None:
        raise _unusable(table, where, ITEM_ID, ID_TYPES)
    if title is None or not _is_text(title):
        raise _unusable(table, where, TITLE, "strings")
    ids = plain_ids(table[ITEM_ID].combine_chunks(), kind, where)
    if ids.null_count:
        raise SchemaError(
            "items without an id", where, "an id in every row", f"{ids.null_count:,} without"
        )
    counts = ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise SchemaError(
            "repeated item ids",
            where,
            expected="one row per item",
            found=f"{len(repeated):,} ids with several, such as {repeated[0].as_py()!r}",
        )
    return table.set_column(table.schema.get_field_index(ITEM_ID), ITEM_ID, ids)


def item_titles(
    path: str | os.PathLike[str], item_ids: Iterable[int | str]
) -> dict[int | str, str]:
    """The titles of some items by their ids; items without a title are left out.

    Ids are compared as text, as those of a CSV file have no type.

    Raises:
        InputError: as `read_items_table`.
        SchemaError: as `read_items_table`.
    """
    wanted = {str(item_id): item_id for item_id in item_ids}
    table = read_items_table(path)
    ids, titles = table[ITEM_ID].cast(pa.string()), table[TITLE].cast(pa.string())
    chosen = pc.and_(pc.is_in(ids, pa.array(wanted, pa.string())), titles.is_valid())
    found = zip(ids.filter(chosen).to_pylist(), titles.filter(chosen).to_pylist(), strict=True)
    return {wanted[item_id]: title for item_id, title in found}


def _read(path: str) -> pa.Table:
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".parquet", ".csv"):
        raise InputError(
            "not an items table",
            path,
            "a file that ends in .parquet or .csv",
            ending or "no ending",
        )
    failures = OSError, pa.ArrowException, UnicodeError  # of a column's name
    expected = f"a table in {ending[1:]} format"
    with raised_as(
        InputError, failures, "cannot be read", path, expected=expected, message=read_failure
    ):
        filesystem, inner = open_filesystem(path)
        with filesystem.open_input_file(inner) as file:
            table = pq.read_table(file) if ending == ".parquet" else _read_csv(file)
        table.validate(full=True)  # text may not be UTF-8
        return table


def _read_csv(file: pa.NativeFile) -> pa.Table:
    as_text = {ITEM_ID: pa.string(), TITLE: pa.string()}
    return csv.read_csv(
        file,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=as_text),
    )


def _type_of(table: pa.Table, name: str) -> pa.DataType | None:
    """The type of a column; None where there is none of the name, or more than one."""
    column = table.schema.get_field_index(name)
    return None if column < 0 else table.schema.field(column).type


def _unusable(table: pa.Table, where: str, name: str, expected: str) -> SchemaError:
    return SchemaError(
        f"no usable column {name!r}",
        where,
        expected,
        found=", ".join(f"{field.name} {field.type}" for field in table.schema),
    )


def _is_text(kind: pa.DataType) -> bool:
    return is_id_type(kind) and not pa.types.is_integer(kind)
