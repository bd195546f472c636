"""Scored parts with lists written by hand, in either layout, as a scoring run would leave them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.results import Scored
from pipeline.schema import recommendation_lists_schema, recommendations_schema
from pipeline.scoring.encoded_part import EncodedPart
from pipeline.scoring.manifest import PartCounts, ResumeKey
from pipeline.scoring.output import open_output
from pipeline.storage.folders import open_folder

DAY = date(2026, 11, 20)


@dataclass(frozen=True)
class ListOf:
    """One user's list."""

    user: int
    items: Sequence[str | None]
    scores: Sequence[float | None]
    ranks: Sequence[int | None]
    popular: bool = False


def rows_of(lists: Sequence[ListOf], layout: str, day: date = DAY) -> pa.Table:
    """The lists as rows of the table of recommendations."""
    rows: list[dict[str, Any]] = []
    for each in lists:
        entries = zip(each.items, each.scores, strict=True)
        common = {
            "user_id": each.user,
            "source": "popular" if each.popular else "model",
            "model_version": "v1",
            "run_date": day,
            "generated_at": datetime(2026, 7, 2, 3, tzinfo=UTC),
        }
        if layout == "list":
            items = [{"item_id": item, "score": score} for item, score in entries]
            rows.append({**common, "recommendations": items})
        else:
            rows += (
                {**common, "item_id": item, "score": score, "rank": rank}
                for (item, score), rank in zip(entries, each.ranks, strict=True)
            )
    columns = recommendations_schema if layout == "long" else recommendation_lists_schema
    return pa.Table.from_pylist(rows, columns(pa.int64(), pa.string()))


def write_parts(
    folder: Path,
    lists: Sequence[ListOf],
    layout: str,
    size: int,
    *,
    n_users: int | None = None,
    day: date = DAY,
) -> Scored:
    """Parts of so many lists each.

    `n_users` is the count of users of a single part that has users without rows.
    """
    parts = [lists[begin : begin + size] for begin in range(0, len(lists), size)]
    tables = [
        (rows_of(some, layout, day), len(some) if n_users is None else n_users) for some in parts
    ]
    return write_tables(folder, tables, rows_of([], layout, day))


def write_tables(
    folder: Path, parts: Sequence[tuple[pa.Table, int]], empty: pa.Table, version: str = "v1"
) -> Scored:
    """Parts of rows, each of so many users; hashes and counts are those of what is written."""
    key = ResumeKey(model_version=version, bundle={}, inputs={}, settings={})
    now = datetime.now(UTC)
    out = open_output(open_folder(folder), key, now, resume=False, overwrite=True)
    with out.begin():
        for table, n_users in parts:
            out.write(EncodedPart.of(table, PartCounts(n_users=n_users, n_rows=len(table))))
        out.finish(empty)
    values: dict[str, Any] = dict.fromkeys(Scored.__dataclass_fields__, 0)
    values |= {"folder": str(folder), "model_version": version}
    return Scored(**{**values, "n_users": out.done.n_users, "n_rows": out.done.n_rows})
