"""The Parquet files of an interaction log: listing, checking and reading them."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.config.sections import LogSettings
from pipeline.errors import InputError, UnreadableFileError, one_line, raised_as
from pipeline.logs.validation import IdTypes, check_columns, common_types, normalise_timestamps
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID
from pipeline.storage.credentials import check_no_credentials
from pipeline.storage.folders import open_filesystem, resolved
from pipeline.storage.local_files import files_below

_BATCH_ROWS = 1 << 18


@dataclass(frozen=True, order=True)
class LogFile:
    """One Parquet file of a log."""

    path: str  # in its filesystem
    name: str  # relative to the listed folder
    size: int  # bytes
    modified: int  # nanoseconds since the epoch; 0 where the store does not say
    filesystem: pafs.FileSystem = field(compare=False, repr=False)

    @property
    def stamp(self) -> str:
        """Size and modification time, which change when the file does."""
        return f"{self.size}-{self.modified}"


def list_log_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[LogFile]:
    """The Parquet files under one or more paths, each once, sorted by path.

    A path is a file, a folder tree or a glob (``*``, ``?``, ``**/``), local or on ``s3://``,
    ``gs://`` or ``abfs://``. In folders and globs only ``*.parquet`` files count, and names that
    begin with a dot or an underscore are skipped.

    Raises:
        InputError: a path does not exist, cannot be listed or has no Parquet file.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = {file.path: file for path in several for file in _list(os.fspath(path))}
    return sorted(found.values())


def would_list(path: str, filesystem: pafs.FileSystem, file: str) -> bool:
    """Whether `list_log_files` would list a file under a path if the file existed.

    Args:
        path: As for `list_log_files`.
        filesystem: The file's Arrow file system.
        file: Its absolute path there.
    """
    listed = _parse(path)
    if not listed.filesystem.equals(filesystem):
        return False
    try:
        name = PurePosixPath(file).relative_to(resolved(filesystem, listed.root))
    except ValueError:
        return False
    return _matches(str(name), listed.pattern)


def read_columns(file: LogFile) -> pa.Schema:
    """The Arrow schema in one file's footer.

    Raises:
        UnreadableFileError: the file cannot be read as Parquet.
    """
    with readable(file), file.filesystem.open_input_file(file.path) as source:
        return pq.read_schema(source)


def log_types(file: LogFile, logs: LogSettings) -> IdTypes:
    """The id types of one file, whose columns are checked.

    Raises:
        UnreadableFileError: the file cannot be read as Parquet.
        SchemaError: a column is missing or has a type that cannot be used.
    """
    return check_columns(read_columns(file), logs, file.path)


def check_log_files(files: Sequence[LogFile], logs: LogSettings) -> IdTypes:
    """The id types wide enough for all files, whose footers and columns are checked.

    Raises:
        UnreadableFileError: a file cannot be read as Parquet.
        SchemaError: a column is missing, has a wrong type, or differs in kind between files.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        types = list(pool.map(lambda file: log_types(file, logs), files))
    return common_types({file.path: found for file, found in zip(files, types, strict=True)})


@contextmanager
def log_rows(
    files: Sequence[LogFile], logs: LogSettings, types: IdTypes
) -> Iterator[pa.RecordBatchReader]:
    """The rows of checked files, in order, as a stream to be read inside the ``with`` block.

    The columns are ``user_id``, ``item_id``, ``timestamp`` (microseconds, UTC), ``file`` (int32,
    position in `files`) and ``row`` (int64, from 0 in each file).

    Raises:
        UnreadableFileError: a file cannot be read. DuckDB, which reads the stream, raises an error
            of its own then; this one replaces it.
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
    failures: list[UnreadableFileError | MemoryError] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for position, file in enumerate(files):
            try:
                with readable(file):
                    yield from _read(file, position, logs, schema)
            except (UnreadableFileError, MemoryError) as error:
                failures.append(error)
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
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=names):
            batch.validate(full=True)  # text that is not UTF-8; DuckDB would not name the file
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


def readable(file: LogFile) -> AbstractContextManager[None]:
    """Translate what reading a file raises into an `UnreadableFileError`."""
    return raised_as(
        UnreadableFileError,
        (OSError, pa.ArrowException, UnicodeEncodeError),
        "not a readable Parquet file",
        file.path,
        remedy="Write it again, or remove it.",
        message=_read_failure,
    )


def _read_failure(error: Exception) -> str:
    """The message of an exception; Arrow opens no file whose name is not UTF-8."""
    return "a name that is not UTF-8" if isinstance(error, UnicodeError) else one_line(error)


class _Listing(NamedTuple):
    filesystem: pafs.FileSystem
    root: str
    pattern: re.Pattern[str]  # of names relative to the root


def _parse(path: str) -> _Listing:
    """Split a path or glob into the folder to list and the pattern of names below it."""
    check_no_credentials(path)  # here, because a query would be taken for a wildcard
    wildcard = re.search(r"[*?]", path)
    end = path.rfind("/", 0, wildcard.start()) + 1 if wildcard else len(path)
    filesystem, root = open_filesystem(path[:end])
    return _Listing(filesystem, root, re.compile(_regex_of_glob(path[end:] or "**/*")))


def _matches(name: str, pattern: re.Pattern[str]) -> bool:
    parquet = name.lower().endswith(".parquet") and not re.search(r"(^|/)[._]", name)
    return parquet and pattern.fullmatch(name) is not None


def _list(path: str) -> list[LogFile]:
    if not path:  # from an unset shell variable; it must not mean the current folder
        raise InputError("an empty path", expected="a file, a folder or a glob")
    with raised_as(InputError, (OSError, pa.ArrowException), "cannot be listed", path):
        filesystem, root, pattern = _parse(path)
        top = filesystem.get_file_info(root)
        if top.is_file:
            return [_log_file(top, PurePosixPath(root).name, filesystem)]
        if top.type == pafs.FileType.NotFound:
            raise InputError("no such file or folder", path, remedy="Check the path of the logs.")
        below = _files_below(filesystem, root)
    files = [file for file in below if _matches(file.name, pattern)]
    if not files:
        raise InputError(
            "no Parquet files",
            path,
            expected="*.parquet, in folders at any depth",
            found=f"{len(below)} other files",
        )
    return files


def _files_below(filesystem: pafs.FileSystem, root: str) -> list[LogFile]:
    """Every file in a folder tree; a broken link is one that cannot be read, not a missing one."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return [
            LogFile(str(PurePosixPath(root, name)), name, size, modified, filesystem)
            for name, size, modified in files_below(root)
        ]
    below = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    return [
        _log_file(info, str(PurePosixPath(info.path).relative_to(root)), filesystem)
        for info in below
        if info.is_file
    ]


def _regex_of_glob(pattern: str) -> str:
    """A glob as a regular expression, which also matches everything below a folder it matches."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    split = re.split(r"(\*\*/|\*|\?)", pattern)
    return "".join(parts.get(part, re.escape(part)) for part in split) + "(?:/.*)?"


def _log_file(info: pafs.FileInfo, name: str, filesystem: pafs.FileSystem) -> LogFile:
    path = str(PurePosixPath(info.path))
    return LogFile(path, name, info.size or 0, info.mtime_ns or 0, filesystem)
