"""What is known of a bundle's items: the columns of the items table beside the bundle's own."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError, SchemaError
from pipeline.logs.conversion import whole_numbers_as_text, widest_id_type
from pipeline.logs.id_lists import as_known, check_same_kind
from pipeline.logs.id_tables import has_text_ids
from pipeline.logs.items_table import read_items_table
from pipeline.schema import ITEM_ID

BUNDLE_COLUMNS = (ITEM_ID, "popularity", "last_seen")


@dataclass(frozen=True)
class Attributes:
    """What is known of a bundle's items.

    Attributes:
        table: V-1 rows in index order from 1: `BUNDLE_COLUMNS` as the bundle has them, and the
            other columns of the items table, null where an item has no row in it.
        others: The rows of the items table whose id the bundle does not know, with the same
            columns; `item_id` is as the items table has it, `popularity` 0 and `last_seen` null.
        n_missing: The number of the bundle's items without a row.
        similar_by: The columns by which items are similar, the most telling one first.
        path: The items table; None where there is none.
    """

    table: pa.Table
    others: pa.Table
    n_missing: int
    similar_by: tuple[str, ...] = ()
    path: str | None = None

    @property
    def n_unknown(self) -> int:
        """The number of rows of the items table whose id the bundle does not know."""
        return len(self.others)


def needed_attributes(
    items: pa.Table, settings: ScoreSettings, path: str | None, similar_by: tuple[str, ...] = ()
) -> Attributes | None:
    """`item_attributes` where some rule of the settings needs them, otherwise None."""
    return item_attributes(items, path, similar_by) if settings.needs_attributes else None


def item_attributes(
    items: pa.Table, path: str | None, similar_by: tuple[str, ...] = ()
) -> Attributes:
    """Join a bundle's items with the items table.

    Ids are matched as those of allow and deny files are (see `as_known`). The ids of a CSV file
    have no type: they are compared with integers as text.

    Args:
        items: The bundle's items, V-1 rows in index order from 1.
        path: The items table; None where there is none, and the bundle's columns are all.
        similar_by: See `Attributes`.

    Raises:
        InputError: the items table cannot be read.
        SchemaError: it cannot be used, its ids are of another kind than the bundle's, several of
            its rows are of one item, or the names of its columns are not distinct, also from the
            bundle's.
    """
    own = items.select(BUNDLE_COLUMNS)
    if path is None:
        return Attributes(own, own.slice(0, 0), 0, similar_by)
    table = read_items_table(path)
    _check_names(table.column_names, path)
    found, known = _matched(table[ITEM_ID], own[ITEM_ID], path)
    _check_distinct(found, path)
    row = pc.index_in(known, value_set=found)
    unknown = table.filter(found.is_null())
    others = _with_columns(_without_events(unknown[ITEM_ID], own.schema), unknown)
    known_rows = _with_columns(own, table.take(row))
    return Attributes(known_rows, others, row.null_count, similar_by, path)


def _check_names(names: list[str], path: str) -> None:
    """Check the names of an items table's columns.

    Raises:
        SchemaError: they are not distinct, also from those of the bundle's own columns.
    """
    taken = set(BUNDLE_COLUMNS) - {ITEM_ID}
    if own := [name for name in names if name.lower() in taken]:
        raise SchemaError(
            f"a column {own[0]!r}, which the model has of its own",
            path,
            remedy="Give the column another name, or leave it out.",
        )
    check_distinct_names(names, path)


def check_distinct_names(names: list[str], path: str) -> None:
    """Check that the names of columns are distinct, in any case of letters, as DuckDB needs them.

    Raises:
        SchemaError: they are not.
    """
    repeated = [name for name, count in Counter(map(str.lower, names)).items() if count > 1]
    if repeated:
        raise SchemaError(
            "repeated names of columns",
            path,
            expected="distinct names, whatever the case of their letters",
            found=", ".join(name for name in names if name.lower() in repeated),
        )


def _matched(listed: pa.ChunkedArray, known: pa.ChunkedArray, path: str) -> tuple[pa.Array, ...]:
    """The known ids that those of an items table mean, null where none, and all known ones."""
    ids, own = listed.combine_chunks(), known.combine_chunks()
    kind = pa.string() if has_text_ids(path) else widest_id_type(own.type)
    if not (has_text_ids(path) or pa.types.is_null(ids.type)):
        check_same_kind(ids.type, path, own.type, "the bundle")
    ids = ids.cast(kind)
    if has_text_ids(path) and pa.types.is_integer(own.type):
        ids = whole_numbers_as_text(ids)
    own = own.cast(kind)
    return as_known(ids, own), own


def _check_distinct(found: pa.Array, path: str) -> None:
    """Check that no two rows are of one item, with and without quotes around its id, say.

    Raises:
        SchemaError: some are.
    """
    counts = found.drop_null().value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise SchemaError(
            "several rows for one item",
            path,
            expected="one row per item",
            found=f"{len(repeated):,} items with several, such as {repeated[0].as_py()!r}",
        )


def _without_events(ids: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Items that no model knows, with the columns of a bundle's."""
    columns = {
        ITEM_ID: ids,
        "popularity": pa.repeat(pa.scalar(0, schema.field("popularity").type), len(ids)),
        "last_seen": pa.nulls(len(ids), schema.field("last_seen").type),
    }
    return pa.table(columns)


def _with_columns(table: pa.Table, more: pa.Table) -> pa.Table:
    for name in more.column_names:
        if name != ITEM_ID:
            table = table.append_column(name, more[name])
    return table


def column_of(items: pa.Table, name: str, setting: str) -> pa.Array:
    """A column of the items table that a setting names.

    Raises:
        ConfigError: there is none.
    """
    if name not in items.column_names:
        raise ConfigError(
            f"the items table has no column {name}",
            setting,
            expected=f"one of {', '.join(items.column_names)}",
        )
    return items[name].combine_chunks()


def single_values(items: pa.Table, name: str, setting: str) -> pa.Array:
    """`column_of`, whose values are neither lists nor structs.

    Raises:
        ConfigError: they are, or there is no such column.
    """
    values = column_of(items, name, setting)
    if pa.types.is_nested(values.type):
        raise ConfigError(
            f"the column {name} has values that are no single ones",
            setting,
            expected="a column of texts, numbers, dates or booleans",
            found=str(values.type),
        )
    return values
