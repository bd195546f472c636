"""The items table: one row per item with its id and whatever is known of it, such as a title."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from pipeline.errors import InputError, SchemaError, raised_as
from pipeline.logs.conversion import ID_TYPES, is_text, plain_id_type, plain_ids
from pipeline.logs.delta_items import delta_version, is_delta, read_delta
from pipeline.logs.log_files import read_failure
from pipeline.schema import ITEM_ID, TITLE
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import open_filesystem


def read_items_table(path: str | os.PathLike[str]) -> pa.Table:
    """The items table, checked.

    Args:
        path: A local path or an object's URI: a file that ends in ``.parquet`` or ``.csv``, or the
            folder of a Delta table. A CSV file has a header; its ids and titles are read as text,
            as they stand.

    Returns:
        `item_id` (integer or string, each once) and the table's other columns, among which `title`,
        where there is one, is text.

    Raises:
        InputError: the table is missing, cannot be read, or has another form; or it is a Delta
            table, and deltalake is not installed.
        SchemaError: `item_id` is missing or has a wrong type, `title` has one, an id is missing or
            repeated.
    """
    where = os.fspath(path)
    table = _read(where)
    item = _type_of(table, ITEM_ID)
    kind = None if item is None else plain_id_type(item)
    if kind is None:
        raise _unusable(table, where, ITEM_ID, ID_TYPES)
    if TITLE in table.column_names:
        title = _type_of(table, TITLE)
        if title is None or not is_text(title):
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
) -> dict[int | str, str] | None:
    """The titles of some items by their ids; None where the table has no column `title`.

    Items without a title are left out. Ids are compared as text, as those of a CSV file have no
    type.

    Raises:
        InputError: as `read_items_table`.
        SchemaError: as `read_items_table`.
    """
    wanted = {str(item_id): item_id for item_id in item_ids}
    table = read_items_table(path)
    if TITLE not in table.column_names:
        return None
    ids, titles = table[ITEM_ID].cast(pa.string()), table[TITLE].cast(pa.string())
    chosen = pc.and_(pc.is_in(ids, pa.array(wanted, pa.string())), titles.is_valid())
    found = zip(ids.filter(chosen).to_pylist(), titles.filter(chosen).to_pylist(), strict=True)
    return {wanted[item_id]: title for item_id, title in found}


def items_table_hash(path: str | os.PathLike[str]) -> str:
    """What identifies the content of an items table: `content_hash`, or a Delta table's version.

    Raises:
        InputError: the table is missing or cannot be read; or it is a Delta table, and deltalake is
            not installed.
    """
    where = os.fspath(path)
    with _readable(where, "an items table"):
        return delta_version(where) if is_delta(where) else content_hash(where)


def has_text_ids(path: str | os.PathLike[str]) -> bool:
    """Whether ids are text only because the items table is: they have no type in a CSV file."""
    return _ending(os.fspath(path)) == ".csv"


def _read(path: str) -> pa.Table:
    ending = _ending(path)
    with _readable(path, f"a table in {ending[1:] or 'Delta'} format"):
        if is_delta(path):
            return read_delta(path)
        if ending not in (".parquet", ".csv"):
            raise InputError(
                "not an items table",
                path,
                "a file that ends in .parquet or .csv, or the folder of a Delta table",
                ending or "no ending",
            )
        filesystem, inner = open_filesystem(path)
        with filesystem.open_input_file(inner) as file:
            table = pq.read_table(file) if ending == ".parquet" else _read_csv(file)
        table.validate(full=True)  # text may not be UTF-8
        return table


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _readable(path: str, expected: str) -> AbstractContextManager[None]:
    caught = OSError, pa.ArrowException, UnicodeError  # of a column's name
    return raised_as(
        InputError, caught, "cannot be read", path, expected=expected, message=read_failure
    )


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
