"""A Delta table as the source of logs: the data files of its newest version, taken in once each."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError
from pipeline.logs.log_files import LogFile, list_log_files
from pipeline.storage.folders import open_filesystem
from pipeline.warehouse.tables import open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

_UNREAD = {"deletionVectors", "columnMapping"}  # what the data files alone do not tell


def list_logs(path: str) -> list[LogFile]:
    """The files of the logs: `list_log_files`, or those of a Delta table's newest version.

    Raises:
        InputError: as `list_log_files`; or the table is empty, or has rows or names of columns that
            its Parquet files alone do not tell.
    """
    root = _table_root(path)
    table = None if root is None else open_table(path)
    if root is None or table is None:
        return list_log_files(path)
    _check_features(table, path)
    added = pa.table(table.get_add_actions(flatten=True))
    names = [unquote(name) for name in added["path"].to_pylist()]
    states = (added[name].to_pylist() for name in ("size_bytes", "modification_time"))
    files = [
        LogFile(f"{root.path}/{name}", name, size, 1_000_000 * modified, root.filesystem)
        for name, size, modified in zip(names, *states, strict=True)
    ]
    if not files:
        raise InputError("a table without rows", path, expected="a table of logs")
    return sorted(files)


def left_table(
    path: str, files: Iterable[LogFile], entries: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The known files that are no longer part of a Delta table that is the source of logs.

    Args:
        path: Of the logs; unless it is a table's, there are none.
        files: Those of its newest version.
        entries: The rows of `log_files`.

    Returns:
        Their names in the column `source_file`.
    """
    root = _table_root(path)
    if root is None:
        return []
    there = {file.location for file in files}
    return [
        entry["source_file"]
        for entry in entries
        if entry["location"]
        and entry["location"].startswith(f"{root.location}/")
        and entry["location"] not in there
        and not entry["forgotten"]
    ]


def _table_root(path: str) -> LogFile | None:
    """The folder of a Delta table; None where a path is none."""
    if not path or any(wildcard in path for wildcard in "*?"):
        return None
    with suppress(OSError, pa.ArrowException):  # which `list_log_files` reports
        filesystem, inner = open_filesystem(path)
        inner = str(PurePosixPath(inner))
        (log,) = filesystem.get_file_info([f"{inner}/_delta_log"])
        if log.type == pafs.FileType.Directory:
            return LogFile(inner, "", 0, 0, filesystem)
    return None


def _check_features(table: "DeltaTable", path: str) -> None:
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    features = set(table.protocol().reader_features or ()) & _UNREAD
    features |= {"columnMapping"} if mapping != "none" else set()
    if features:
        raise InputError(
            "a table whose Parquet files alone do not tell its rows",
            path,
            expected="a Delta table without deletion vectors and column mapping",
            found=", ".join(sorted(features)),
            remedy="Purge and drop the feature, or write its rows to a folder of their own.",
        )
