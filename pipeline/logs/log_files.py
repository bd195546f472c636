"""Finding, checking and reading the Parquet files of an interaction log."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.config.sections import LogSettings
from pipeline.errors import InputError
from pipeline.logs.validation import IdTypes, check_columns, common_types, normalise_timestamps
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID
from pipeline.storage.folders import open_filesystem, resolved

_ROWS_A_BATCH = 1 << 18


@dataclass(frozen=True, order=True)
class LogFile:
    """One Parquet file of a log."""

    path: str  # as its filesystem knows it
    name: str  # relative to the folder that was listed
    size: int  # bytes
    modified: int  # nanoseconds since the epoch; 0 where the store does not say
    filesystem: pafs.FileSystem = field(compare=False, repr=False)

    @property
    def stamp(self) -> str:
        """What changes when the file does."""
        return f"{self.size}-{self.modified}"


def list_log_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[LogFile]:
    """The Parquet files under one or more paths, each once, sorted by path.

    A path is a file, a folder tree or a glob (``*``, ``?``, ``**/``), local or on ``s3://``,
    ``gs://`` or ``abfs://``. In folders and globs only ``*.parquet`` counts, and what begins
    with a dot or an underscore is skipped.

    Raises:
        InputError: a path does not exist or cannot be listed, or has no Parquet file.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = {file.path: file for path in several for file in _list(os.fspath(path))}
    return sorted(found.values())


def would_list(path: str, filesystem: pafs.FileSystem, file: str) -> bool:
    """Whether a file would be among the Parquet files under a path, were it there.

    Args:
        path: As for `list_log_files`.
        filesystem: Arrow's, of the file.
        file: Its path in there, absolute.
    """
    asked = _understand(path)
    if not asked.filesystem.equals(filesystem):
        return False
    try:
        name = PurePosixPath(file).relative_to(resolved(filesystem, asked.root))
    except ValueError:
        return False
    return _is_wanted(str(name), asked.pattern)


def read_columns(file: LogFile) -> pa.Schema:
    """Read one file's footer.

    Raises:
        InputError: the file cannot be read as Parquet.
    """
    try:
        with file.filesystem.open_input_file(file.path) as source:
            return pq.read_schema(source)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from None


def log_types(file: LogFile, logs: LogSettings) -> IdTypes:
    """Read one file's footer and check its columns.

    Raises:
        InputError: the file cannot be read as Parquet.
        SchemaError: a column is missing or has a type that cannot be used.
    """
    return check_columns(read_columns(file), logs, file.path)


def check_log_files(files: Sequence[LogFile], logs: LogSettings) -> IdTypes:
    """Check every file's footer and columns; the id types that hold all of them.

    Raises:
        InputError: a file cannot be read as Parquet.
        SchemaError: a column is missing, has a wrong type, or another type than elsewhere.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        types = list(pool.map(lambda file: log_types(file, logs), files))
    return common_types({file.path: found for file, found in zip(files, types, strict=True)})


@contextmanager
def log_rows(
    files: Sequence[LogFile], logs: LogSettings, types: IdTypes
) -> Iterator[pa.RecordBatchReader]:
    """The rows of checked files, in order, as a stream to be read inside the ``with``.

    Its columns are ``user_id``, ``item_id``, ``timestamp`` (microseconds, UTC), ``file``
    (int32, position in `files`) and ``row`` (int64, from 0 in each file).

    Raises:
        InputError: a file turned out unreadable, whatever the stream's reader made of that.
    """
    schema = pa.schema(
        [
            (USER_ID, types.user),
            (ITEM_ID, types.item),
            (TIMESTAMP, TIME),
            ("file", pa.int32()),
            ("row", pa.int64()),
        ]
    )
    failures: list[InputError] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for position, file in enumerate(files):
            try:
                yield from _read(file, position, logs, schema)
            except (OSError, pa.ArrowException) as error:
                failures.append(unreadable(file, error))
                raise

    try:
        yield pa.RecordBatchReader.from_batches(schema, batches())
    except Exception:
        if failures:
            raise failures[0] from None
        raise


def _read(
    file: LogFile, position: int, logs: LogSettings, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    row = 0
    names = [logs.user_id, logs.item_id, logs.timestamp]
    with (
        file.filesystem.open_input_file(file.path) as source,
        pq.ParquetFile(source, pre_buffer=True) as parquet,
    ):
        for batch in parquet.iter_batches(_ROWS_A_BATCH, columns=names):
            batch.validate(full=True)  # text may be no UTF-8; DuckDB would not name the file
            rows = len(batch)
            columns = [
                batch[logs.user_id].cast(schema.field(USER_ID).type),
                batch[logs.item_id].cast(schema.field(ITEM_ID).type),
                normalise_timestamps(batch[logs.timestamp], logs.timestamp_unit),
                pa.repeat(pa.scalar(position, pa.int32()), rows),
                pa.arange(row, row + rows),
            ]
            yield pa.record_batch(columns, schema=schema)
            row += rows


class _Asked(NamedTuple):
    filesystem: pafs.FileSystem
    root: str
    pattern: re.Pattern[str]  # of the names below it


def _understand(path: str) -> _Asked:
    wildcard = re.search(r"[*?]", path)
    cut = path.rfind("/", 0, wildcard.start()) + 1 if wildcard else len(path)
    filesystem, root = open_filesystem(path[:cut])
    return _Asked(filesystem, root, re.compile(_translate(path[cut:] or "**/*")))


def _is_wanted(name: str, pattern: re.Pattern[str]) -> bool:
    parquet = name.lower().endswith(".parquet") and not re.search(r"(^|/)[._]", name)
    return parquet and pattern.fullmatch(name) is not None


def _list(path: str) -> list[LogFile]:
    if not path:  # an unset shell variable, which must not mean the current folder
        raise InputError("an empty path", expected="a file, a folder or a glob")
    try:
        filesystem, root, pattern = _understand(path)
        top = filesystem.get_file_info(root)
        if top.is_file:
            return [_log_file(top, PurePosixPath(root).name, filesystem)]
        if top.type == pafs.FileType.NotFound:
            raise InputError("no such file or folder", path, remedy="Check the path of the logs.")
        below = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
        below += _leading_nowhere(filesystem, root)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot be listed: {_first_line(error)}", path) from None

    named = {str(PurePosixPath(info.path).relative_to(root)): info for info in below}
    files = [
        _log_file(info, name, filesystem)
        for name, info in named.items()
        # A link that leads nowhere is a file that cannot be read, not one that is not there.
        if info.type in (pafs.FileType.File, pafs.FileType.NotFound) and _is_wanted(name, pattern)
    ]
    if not files:
        raise InputError(
            "no Parquet files",
            path,
            expected="*.parquet, in folders at any depth",
            found=f"{sum(info.is_file for info in below)} other files",
        )
    return files


def _leading_nowhere(filesystem: pafs.FileSystem, root: str) -> list[pafs.FileInfo]:
    """The links that Arrow's listing leaves out, because what they lead to is not there."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return []
    paths = (path for path in Path(root).rglob("*") if path.is_symlink() and not path.exists())
    return filesystem.get_file_info([str(path) for path in paths])


def _translate(pattern: str) -> str:
    """A glob as a regular expression; it also matches what lies below a folder it matches."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    split = re.split(r"(\*\*/|\*|\?)", pattern)
    return "".join(parts.get(part, re.escape(part)) for part in split) + "(?:/.*)?"


def _log_file(info: pafs.FileInfo, name: str, filesystem: pafs.FileSystem) -> LogFile:
    path = str(PurePosixPath(info.path))
    return LogFile(path, name, info.size or 0, info.mtime_ns or 0, filesystem)


def unreadable(file: LogFile, error: Exception) -> InputError:
    """What to raise when reading a file failed."""
    return InputError(
        "not a readable Parquet file",
        file.path,
        found=_first_line(error),
        remedy="Write it again, or take it away.",
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
