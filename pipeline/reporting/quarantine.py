"""The rows that a run date put into quarantine: how many for which reason, with examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow.dataset as ds

from pipeline.errors import naming
from pipeline.schema import ITEM_ID, QUARANTINE, RUN_DATE, TIMESTAMP, USER_ID
from pipeline.storage.locations import Warehouse
from pipeline.storage.resources import ResourceSettings
from pipeline.storage.scratch_db import temporary_database
from pipeline.warehouse.tables import dataset_of, open_table

_EXAMPLES = 3


@dataclass(frozen=True)
class BadRows:
    """Rows of one reason in quarantine.

    Attributes:
        reason: Why they are bad.
        count: How many the run date added.
        examples: Some of them, as the log has them, with their file and row.
    """

    reason: str
    count: int
    examples: Sequence[Mapping[str, Any]]


def bad_rows(warehouse: Warehouse, run_date: date, resources: ResourceSettings) -> list[BadRows]:
    """What a run date put into quarantine, most frequent reason first."""
    table = open_table(warehouse.table(QUARANTINE))
    if table is None:
        return []
    rows = dataset_of(table)
    columns = [name for name in rows.schema.names if name not in (RUN_DATE, "source_stamp")]
    time = TIMESTAMP  # tables of version 0.1 have no time as the log has it
    if "raw_timestamp" in columns:
        time = f"coalesce(raw_timestamp, {TIMESTAMP})"
    with naming(warehouse.table(QUARANTINE)), temporary_database(resources) as db:
        mine = rows.scanner(columns, filter=ds.field(RUN_DATE) == run_date)
        db.register("rows", mine.to_reader())
        found = db.execute(
            f"""SELECT reason, count(*) AS n, arg_min(
                    {{'{USER_ID}': {USER_ID}, '{ITEM_ID}': {ITEM_ID}, '{TIMESTAMP}': {time},
                      'source_file': source_file, 'source_row': source_row}},
                    struct_pack(source_file, source_row), {_EXAMPLES})
            FROM rows GROUP BY reason ORDER BY n DESC, reason"""
        ).fetchall()
    return [BadRows(*each) for each in found]
