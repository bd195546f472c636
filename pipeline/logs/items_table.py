"""The items table: one row per item with its id and whatever is known of it, such as a title."""

import os
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.logs.id_tables import id_table_hash, read_id_table
from pipeline.schema import ITEM_ID, TITLE


def read_items_table(path: str | os.PathLike[str]) -> pa.Table:
    """The items table, checked: `read_id_table` of items, whose `title` must be text.

    Raises:
        InputError: as `read_id_table`.
        SchemaError: as `read_id_table`.
    """
    return read_id_table(path, ITEM_ID, (TITLE,))


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
    """The `id_table_hash` of an items table.

    Raises:
        InputError: as `id_table_hash`.
    """
    return id_table_hash(path, ITEM_ID)
