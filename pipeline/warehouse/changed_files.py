"""What changed in a Delta table between two versions, by its log: the data files that differ."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow.dataset as ds

from pipeline.warehouse.tables import dataset_of, files_of, open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class ChangedFiles:
    """The rows of `added` less those of `removed` are how a table's rows changed.

    A file that was merged with others without a change of rows is in neither.

    Attributes:
        added: The files whose rows came.
        removed: The files whose rows went.
    """

    added: ds.Dataset
    removed: ds.Dataset


def changed_files(table: "DeltaTable", since: int) -> ChangedFiles | None:
    """The files that changed the rows of a table since a version.

    Args:
        table: At the later version.
        since: The earlier version.

    Returns:
        None where the log does not say it any longer, or the files are gone.
    """
    from deltalake.exceptions import DeltaError

    net: Counter[str] = Counter()
    try:
        for action in _actions(table, since):
            for kind, count in (("add", 1), ("remove", -1)):
                change = action.get(kind)
                if change and change.get("deletionVector"):
                    return None
                if change and change["dataChange"]:
                    net[unquote(change["path"])] += count
        added, removed = (
            _dataset(table, [path for path, count in net.items() if count == sign])
            for sign in (1, -1)
        )
        before, now = _n_rows(open_table(table.table_uri, since)), _n_rows(table)
        if before + added.count_rows() - removed.count_rows() != now:
            return None
    except (FileNotFoundError, ValueError, DeltaError):
        return None
    return ChangedFiles(added, removed)


def _actions(table: "DeltaTable", since: int) -> Iterator[dict[str, Any]]:
    """The entries of the log after a version; their form is that of Delta's protocol."""
    files = files_of(table)
    for version in range(since + 1, table.version() + 1):
        with files.open_input_stream(f"_delta_log/{version:020}.json") as commit:
            yield from map(json.loads, commit.read().splitlines())


def _dataset(table: "DeltaTable", paths: list[str]) -> ds.Dataset:
    columns = dataset_of(table).schema
    files = files_of(table)
    return ds.dataset(paths, columns, filesystem=files, format=ds.ParquetFileFormat())


def _n_rows(table: "DeltaTable | None") -> int:
    """The rows of a table by its log.

    Raises:
        ValueError: the log does not count them.
    """
    counts = table.get_add_actions().column("num_records").to_pylist() if table else [None]
    if None in counts:
        raise ValueError("a file without a count of its rows")
    return sum(counts)
