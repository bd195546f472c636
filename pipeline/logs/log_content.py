"""The content of one log file: its columns, its rows, and what identifies it."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError, UnreadableFileError, one_line, raised_as
from pipeline.logs.log_files import LogFile
from pipeline.logs.text_files import read_text_batches, read_text_columns

_TAIL = 1 << 16  # bytes; most footers fit
_WRITE_AGAIN = "Write it again, or remove it."


class Footer(NamedTuple):
    """What is known of a log file before its rows are read.

    Attributes:
        columns: The Arrow schema; the types of text are those of `read_text_columns`.
        num_rows: The number of rows; None where there are some, but only reading tells how many.
    """

    columns: pa.Schema
    num_rows: int | None


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


def read_footers(files: Sequence[LogFile]) -> dict[LogFile, Footer]:
    """The footer of each file, in their order; several are read at a time.

    Raises:
        UnreadableFileError: a file is not of its format.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(zip(files, pool.map(read_footer, files), strict=True))


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


def readable_table(path: str, expected: str) -> AbstractContextManager[None]:
    """Translate what reading a table or a list of ids raises into an `InputError`."""
    return raised_as(
        InputError,
        (OSError, pa.ArrowException, UnicodeError),
        "cannot be read",
        path,
        expected=expected,
        message=read_failure,
    )


def _unreadable(file: LogFile) -> str:
    return f"not a readable {file.format} file"


def read_failure(error: Exception) -> str:
    """The message of an exception of Arrow, which takes all names, of columns too, for UTF-8."""
    return "a name that is not UTF-8" if isinstance(error, UnicodeError) else one_line(error)
