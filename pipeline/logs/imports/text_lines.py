"""Text files, compressed or not, as blocks of numbered lines.

DuckDB's CSV reader is not used. In version 2.0.0, with ``store_rejects``, it loses data without a
trace: after one quote out of place, thousands of good lines are neither rows nor rejects. Its
strict mode cannot read a file with both LF and CRLF; the other mode accepts lines with too many
fields. Rows have no line numbers, which the message of a bad id or timestamp needs; and rejects
have question marks for bytes that are not UTF-8.
"""

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError, one_line

_BLOCK = 1 << 24  # bytes read at once
_LINES_PER_BATCH = 1 << 17  # so that DuckDB's threads share a block


def first_line(path: Path) -> tuple[int, str]:
    """The number, from 1, and the text of the first line that is not blank.

    Raises:
        InputError: the file is missing, empty or unreadable, or that line is not UTF-8.
    """
    with _open(path) as (text, _):
        start = text.read(_BLOCK).removeprefix(codecs.BOM_UTF8)
    number, line = next(
        ((number, line) for number, line in enumerate(start.split(b"\n"), 1) if line.strip()),
        (0, b""),
    )
    if not number:
        raise InputError("the file is empty", str(path), expected="interactions, one per line")
    try:
        return number, line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        raise InputError(
            "not UTF-8 text", f"{path}, line {number}", expected="UTF-8", found=repr(line[:60])
        ) from None


def line_blocks(path: Path, progress: Callable[[int, int], None]) -> Iterator[pa.Table]:
    """Read the lines that are not empty, block by block.

    Args:
        path: The file; compressed if its name ends in `.gz`, `.bz2`, `.zst`, ...
        progress: Called with the bytes of the file read so far, and the size of the file.

    Yields:
        Tables of ``line`` (int64, from 1) and ``raw`` (large_binary, without the line's end).

    Raises:
        InputError: the file cannot be read.
    """
    line = 1
    with _open(path) as (text, file):
        block = text.read(_BLOCK).removeprefix(codecs.BOM_UTF8)
        rest = b""
        while block:
            whole, newline, tail = block.rpartition(b"\n")
            if newline:
                whole = rest + whole
                yield _numbered(whole, line)
                line += whole.count(b"\n") + 1
                rest = tail
            else:
                rest += block
            progress(file.tell(), file.size())
            block = text.read(_BLOCK)
        if rest:
            yield _numbered(rest, line)


def _numbered(text: bytes, first: int) -> pa.Table:
    text = text.removesuffix(b"\r").replace(b"\r\n", b"\n")
    raw = pc.split_pattern(pa.array([text], pa.large_binary()), "\n").flatten()
    lines = pa.table({"line": pa.arange(first, first + len(raw)), "raw": raw})
    full = lines.filter(pc.not_equal(raw, b""))
    return pa.Table.from_batches(full.to_batches(_LINES_PER_BATCH), full.schema)


@contextmanager
def _open(path: Path) -> Iterator[tuple[pa.NativeFile, pa.NativeFile]]:
    """Open a file.

    Yields:
        The text, and the file itself, which may hold it compressed.
    """
    try:
        with pa.OSFile(str(path)) as file:
            try:
                codec = pa.Codec.detect(str(path)).name
            except TypeError:  # the name has no such suffix
                yield file, file
            else:
                with pa.CompressedInputStream(file, codec) as text:
                    yield text, file
    except FileNotFoundError:
        raise InputError("no such file", str(path)) from None
    except (OSError, pa.ArrowException) as error:
        raise InputError("cannot be read", str(path), found=one_line(error)) from None
