"""Tables with one row per item or user: its id, and whatever else is known of it."""

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from pipeline.errors import InputError, SchemaError
from pipeline.logs.conversion import ID_TYPES, is_text, plain_id_type, plain_ids
from pipeline.logs.delta_tables import delta_version, is_delta, read_delta
from pipeline.logs.log_content import readable_table
from pipeline.schema import ITEM_ID, USER_ID
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import open_filesystem

_KINDS = {ITEM_ID: "items", USER_ID: "users"}


def read_id_table(
    path: str | os.PathLike[str], id_column: str, texts: Sequence[str] = ()
) -> pa.Table:
    """A table of items or users, checked.

    Args:
        path: A local path or an object's URI: a file that ends in ``.parquet`` or ``.csv``, or the
            folder of a Delta table. A CSV file has a header; its ids and `texts` are read as text,
            as they stand.
        id_column: `item_id` or `user_id`.
        texts: The names of other columns that must be text, where there are such.

    Returns:
        The ids (integer or string, each once) and the table's other columns.

    Raises:
        InputError: the table is missing, cannot be read, or has another form; or it is a Delta
            table, and deltalake is not installed.
        SchemaError: the column of ids is missing or has a wrong type, a text has one, an id is
            missing or repeated.
    """
    where, kinds = os.fspath(path), _KINDS[id_column]
    table = _read(where, id_column, texts)
    found = _type_of(table, id_column)
    kind = None if found is None else plain_id_type(found)
    if kind is None:
        raise _unusable(table, where, id_column, ID_TYPES)
    for name in texts:
        text = _type_of(table, name)
        if name in table.column_names and (text is None or not is_text(text)):
            raise _unusable(table, where, name, "strings")
    ids = plain_ids(table[id_column].combine_chunks(), kind, where)
    if ids.null_count:
        raise SchemaError(
            f"{kinds} without an id", where, "an id in every row", f"{ids.null_count:,} without"
        )
    check_ids_once(ids, id_column, where)
    return table.set_column(table.schema.get_field_index(id_column), id_column, ids)


def check_ids_once(ids: pa.Array, id_column: str, where: str) -> None:
    """Check that no id is repeated.

    Raises:
        SchemaError: one is.
    """
    kind = _KINDS[id_column].removesuffix("s")
    counts = ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise SchemaError(
            f"repeated {kind} ids",
            where,
            expected=f"one row per {kind}",
            found=f"{len(repeated):,} ids with several, such as {repeated[0].as_py()!r}",
        )


def id_table_hash(path: str | os.PathLike[str], id_column: str) -> str:
    """What identifies the content of such a table: `content_hash`, or a Delta table's version.

    Raises:
        InputError: the table is missing or cannot be read; or it is a Delta table, and deltalake is
            not installed.
    """
    where = os.fspath(path)
    with readable_table(where, _name(id_column)):
        return delta_version(where) if is_delta(where) else content_hash(where)


def has_text_ids(path: str | os.PathLike[str]) -> bool:
    """Whether ids are text only because of the table's form: they have no type in a CSV file."""
    return _ending(os.fspath(path)) == ".csv"


def _name(id_column: str) -> str:
    return {ITEM_ID: "an items table", USER_ID: "a users table"}[id_column]


def _read(path: str, id_column: str, texts: Sequence[str]) -> pa.Table:
    ending = _ending(path)
    with readable_table(path, f"a table in {ending[1:] or 'Delta'} format"):
        if is_delta(path):
            return read_delta(path)
        if ending not in (".parquet", ".csv"):
            raise InputError(
                f"not {_name(id_column)}",
                path,
                "a file that ends in .parquet or .csv, or the folder of a Delta table",
                ending or "no ending",
            )
        filesystem, inner = open_filesystem(path)
        with filesystem.open_input_file(inner) as file:
            as_text = (id_column, *texts)
            table = pq.read_table(file) if ending == ".parquet" else _read_csv(file, as_text)
        table.validate(full=True)  # text may not be UTF-8
        return table


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _read_csv(file: pa.NativeFile, as_text: Sequence[str]) -> pa.Table:
    return csv.read_csv(
        file,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(as_text, pa.string())),
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
