"""The recommendations of one run date, in either layout."""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.schema import ITEM_ID, RECOMMENDATIONS, RUN_DATE, USER_ID
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.tables import dataset_of, open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class PublishedLists:
    """A partition of the table `recommendations`.

    Attributes:
        table: The table, as it was when it was opened.
        run_date: Of the partition.
    """

    table: "DeltaTable"
    run_date: date

    def rows(self) -> pa.RecordBatchReader:
        """Its users and items, with the columns of the layout, as a stream."""
        rows = dataset_of(self.table)
        columns = [USER_ID, *list_columns(rows.schema)]
        return rows.scanner(columns, filter=ds.field(RUN_DATE) == self.run_date).to_reader()


def lists_before(warehouse: Warehouse, run_date: date) -> PublishedLists | None:
    """The recommendations of the newest run date before one; None where there are none."""
    table = open_table(warehouse.table(RECOMMENDATIONS))
    earlier = [day for day in published_dates(table) if day < run_date] if table else []
    return PublishedLists(table, max(earlier)) if table and earlier else None


def has_other_lists(warehouse: Warehouse, run_date: date) -> bool:
    """Whether there are recommendations of any run date but one."""
    table = open_table(warehouse.table(RECOMMENDATIONS))
    return table is not None and any(day != run_date for day in published_dates(table))


def published_dates(table: "DeltaTable") -> list[date]:
    """The run dates that the table `recommendations`, or another with such partitions, holds."""
    return [date.fromisoformat(partition[RUN_DATE]) for partition in table.partitions()]


def list_columns(rows: pa.Schema) -> tuple[str, ...]:
    """The columns that hold the items of lists: of the long layout, or of the list layout."""
    return (ITEM_ID, "rank") if "rank" in rows.names else ("recommendations",)


def entries_sql(name: str, rows: pa.Schema) -> str:
    """A DuckDB query of lists in either layout: a row per user and item, with its rank.

    Args:
        name: Of the table, view or table function with the lists.
        rows: Its columns.
    """
    if "rank" in rows.names:
        return f"SELECT {USER_ID}, {ITEM_ID}, rank FROM {name}"
    return f"""SELECT {USER_ID}, unnest(recommendations).{ITEM_ID} AS {ITEM_ID},
               generate_subscripts(recommendations, 1) AS rank FROM {name}"""
