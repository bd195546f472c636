"""The files of an interaction log: listing them, and opening one."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.errors import InputError, UnreadableFileError, one_line, raised_as
from pipeline.logs.text_files import (
    ENDINGS,
    read_text_batches,
    read_text_columns,
    text_format,
)
from pipeline.storage.credentials import check_no_credentials
from pipeline.storage.folders import open_filesystem, resolved
from pipeline.storage.local_files import files_below

# As in Spark: names with a dot, or an underscore unless they are a partition's (_dt=2026-06-01).
_HIDDEN = re.compile(r"(^|/)(\.|_[^/=]*(/|$))")
# What lies beside the Parquet files of a table of Delta, Hudi or Iceberg.
_TABLE = re.compile(r"(^|.*/)(_delta_log|\.hoodie|metadata/[^/]*\.metadata\.json)(/.*)?")
_TAIL = 1 << 16  # bytes; most footers fit
_WRITE_AGAIN = "Write it again, or remove it."


@dataclass(frozen=True, order=True)
class LogFile:
    """One file of a log."""

    path: str  # in its filesystem
    name: str  # relative to the listed folder
    size: int  # bytes
    modified: int  # nanoseconds since the epoch; 0 where the store does not say
    filesystem: pafs.FileSystem = field(compare=False, repr=False)

    @property
    def stamp(self) -> str:
        """Size and modification time, which change when the file does."""
        return f"{self.size}-{self.modified}"

    @property
    def format(self) -> str:
        """What it is by its ending: ``CSV``, ``JSON lines`` or else ``Parquet``."""
        return text_format(self.path) or "Parquet"

    @cached_property
    def location(self) -> str:
        """The absolute path with symbolic links resolved, or the URI."""
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            return resolved(self.filesystem, self.path)
        return f"{self.filesystem.type_name}://{self.path}"


def list_log_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[LogFile]:
    """The log files under one or more paths, each once, sorted by path.

    A path is a file, a folder tree or a glob (``*``, ``?``, ``**/``), local or on ``s3://``,
    ``gs://`` or ``abfs://``. In folders and globs only ``*.parquet`` files and those
    of `text_files` count, and names
    that begin with a dot or an underscore are skipped, but for partitions such as
    ``_dt=2026-06-01``.

    Raises:
        InputError: a path does not exist, cannot be listed, has no log file, or lies in a table
            of Delta, Hudi or Iceberg or holds one: of its files some may be deleted.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = {file.path: file for path in several for file in _list(os.fspath(path))}
    return sorted(found.values())


class Footer(NamedTuple):
    """What is known of a log file before its rows are read.

    Attributes:
        columns: The Arrow schema; the types of text are those of `read_text_columns`.
        num_rows: The number of rows; None where there are some, but only reading tells how many.
    """

    columns: pa.Schema
    num_rows: int | None


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


def read_footer(file: LogFile) -> Footer:
    """One file's footer, whose column names can be read.

    Raises:
        UnreadableFileError: the file is not of its format.
    """
    if file.format != "Parquet":
        with readable(file):
            columns, has_rows = read_text_columns(file.filesystem, file.path)
            return Footer(columns, None if has_rows else 0)
    with readable(file), file.filesystem.open_input_file(file.path) as source:
        footer = pq.read_metadata(source)
        columns = footer.schema.to_arrow_schema()
        list(columns.names)  # raises an error where one is not UTF-8
    groups = (footer.row_group(number).num_rows for number in range(footer.num_row_groups))
    _check_rows(file, footer.num_rows, sum(groups))
    return Footer(columns, footer.num_rows)


def read_batches(file: LogFile, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """One file's rows in batches, whose text is UTF-8, with all times that INT96 can hold.

    Args:
        file: To read; `readable` translates what this raises. One without rows yields nothing.
        names: Of the columns; those that the file lacks are left out.
        rows: The largest number of rows in a batch.

    Raises:
        UnreadableFileError: a column has fewer rows than the file; Arrow would end all with it.
    """
    names = list(dict.fromkeys(names))
    if file.format != "Parquet":
        yield from read_text_batches(file.filesystem, file.path, names, rows)
        return
    with (
        file.filesystem.open_input_file(file.path) as source,
        pq.ParquetFile(source, pre_buffer=True, coerce_int96_timestamp_unit="us") as parquet,
    ):
        expected, found = parquet.metadata.num_rows, 0
        if not expected:  # its columns may be of type null
            return
        present = [name for name in names if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(rows, columns=present):
            batch.validate(full=True)
            found += len(batch)
            yield batch
        _check_rows(file, expected, found)


def _check_rows(file: LogFile, expected: int, found: int) -> None:
    if found != expected:
        raise UnreadableFileError(
            _unreadable(file), file.path, f"{expected:,} rows", f"{found:,}", _WRITE_AGAIN
        )


def footer_hash(file: LogFile) -> str:
    """The sha256 of a Parquet file's footer: its columns, their counts and extremes; or of a text.

    Raises:
        UnreadableFileError: the file cannot be read.
    """
    with readable(file), file.filesystem.open_input_file(file.path) as source:
        if file.format != "Parquet":
            return hashlib.file_digest(source, "sha256").hexdigest()
        tail = source.read_at(min(_TAIL, file.size), max(0, file.size - _TAIL))
        size = int.from_bytes(tail[-8:-4], "little") + 8
        if size > len(tail):
            tail = source.read_at(min(size, file.size), max(0, file.size - size))
        return hashlib.sha256(tail[-size:]).hexdigest()


def readable(file: LogFile) -> AbstractContextManager[None]:
    """Translate what reading a file raises into an `UnreadableFileError`."""
    return raised_as(
        UnreadableFileError,
        (OSError, pa.ArrowException, UnicodeError),
        _unreadable(file),
        file.path,
        remedy=_WRITE_AGAIN,
        message=read_failure,
    )


def _unreadable(file: LogFile) -> str:
    return f"not a readable {file.format} file"


def read_failure(error: Exception) -> str:
    """The message of an exception of Arrow, which takes all names, of columns too, for UTF-8."""
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
    return _Listing(filesystem, root, glob_regex(path[end:] or "**/*"))


def _matches(name: str, pattern: re.Pattern[str]) -> bool:
    is_log = name.lower().endswith(".parquet") or text_format(name) is not None
    return is_log and not _HIDDEN.search(name) and pattern.fullmatch(name) is not None


def _list(path: str) -> list[LogFile]:
    if not path:  # from an unset shell variable; it must not mean the current folder
        raise InputError("an empty path", expected="a file, a folder or a glob")
    with raised_as(InputError, (OSError, pa.ArrowException), "cannot be listed", path):
        filesystem, root, pattern = _parse(path)
        top = filesystem.get_file_info(root)
        _check_no_table(path, filesystem, root)
        if top.is_file:
            return [_log_file(top, PurePosixPath(root).name, filesystem)]
        if top.type == pafs.FileType.NotFound:
            raise InputError("no such file or folder", path, remedy="Check the path.")
        below = _files_below(filesystem, root)
    for file in below:
        if _TABLE.fullmatch(file.name):
            raise _is_table(path, file.name)
    files = [file for file in below if _matches(file.name, pattern)]
    if not files:
        raise InputError(
            "no log files",
            path,
            expected=f"*.parquet, {ENDINGS}, in folders at any depth",
            found=f"{len(below)} other files",
        )
    return files


def _check_no_table(path: str, filesystem: pafs.FileSystem, root: str) -> None:
    """Check that a path is not below a table's root."""
    parents = PurePosixPath(resolved(filesystem, root)).parents
    names = [str(parent / name) for parent in parents for name in ("_delta_log", ".hoodie")]
    with suppress(OSError):  # of folders that we may not look into
        for info in filesystem.get_file_info(names):
            if info.type == pafs.FileType.Directory:
                raise _is_table(path, info.path)


def _is_table(path: str, found: str) -> InputError:
    return InputError(
        "a table, of whose Parquet files some may hold deleted rows",
        path,
        expected="log files alone",
        found=found,
        remedy="Write the table's rows to a folder of their own, and give that.",
    )


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


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression, which also matches everything below a folder it matches."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    split = re.split(r"(\*\*/|\*|\?)", pattern)
    return re.compile("".join(parts.get(part, re.escape(part)) for part in split) + "(?:/.*)?")


def _log_file(info: pafs.FileInfo, name: str, filesystem: pafs.FileSystem) -> LogFile:
    path = str(PurePosixPath(info.path))
    return LogFile(path, name, info.size or 0, info.mtime_ns or 0, filesystem)
