"""The users table: one row per user with its id and whatever is known of it, for segments."""

import os

import pyarrow as pa

from pipeline.logs.conversion import plain_ids, widest_id_type
from pipeline.logs.id_lists import check_same_kind
from pipeline.logs.id_tables import check_ids_once, has_text_ids, read_id_table
from pipeline.schema import USER_ID


def read_users_table(path: str | os.PathLike[str], kind: pa.DataType, origin: str) -> pa.Table:
    """The users table, checked, with ids of the `widest_id_type` of `kind`.

    Args:
        path: As for `read_id_table`.
        kind: The type of the ids to compare with. These must be of the same kind, but may be wider;
            those of a CSV file, which have no type, are numbers where it is an integer type.
        origin: Where that type comes from, for the error.

    Raises:
        InputError: as `read_id_table`.
        SchemaError: as `read_id_table`; or the ids are of another kind.
    """
    where = os.fspath(path)
    table = read_id_table(where, USER_ID)
    ids = table[USER_ID].combine_chunks()
    if not has_text_ids(where) and not pa.types.is_null(ids.type):
        check_same_kind(ids.type, where, kind, origin)
    ids = plain_ids(ids, widest_id_type(kind), where)
    check_ids_once(ids, USER_ID, where)  # again, as 7 and 07 of a CSV file are one number
    return table.set_column(table.schema.get_field_index(USER_ID), USER_ID, ids)
