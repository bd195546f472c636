"""Text files, compressed or not, as blocks of numbered lines."""

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError

_BLOCK = 1 << 24  # bytes read at once
_LINES_A_BATCH = 1 << 17  # so that DuckDB's threads share a block


def first_line(path: Path) -> tuple[int, str]:
    """The first line that is not blank, and its number from 1.

    Raises:
        InputError: the file is missing, empty or unreadable, or that line is not UTF-8.
    """
    with _opened(path) as (text, _):
        start = text.read(_BLOCK).removeprefix(codecs.BOM_UTF8)
    number, line = next(
        ((number, line) for number, line in enumerate(start.split(b"\n"), 1) if line.strip()),
        (0, b""),
    )
    if not number:
        raise InputError("the file is empty", str(path), expected="interactions, one a line")
    try:
        return number, line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        raise InputError(
            "not UTF-8 text", f"{path}, line {number}", expected="UTF-8", found=repr(line[:60])
        ) from None


def line_blocks(path: Path, progress: Callable[[int, int], None]) -> Iterator[pa.Table]:
    """The lines that are not empty, block by block.

    Args:
        path: The file; compressed if its name says so: `.gz`, `.bz2`, `.zst`, ...
        progress: Called with the file's bytes read so far, and all of them.

    Yields:
        ``line`` (int64, from 1) and ``raw`` (large_binary, without what ends it).

    Raises:
        InputError: the file cannot be read.
    """
    line = 1
    with _opened(path) as (text, file):
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
    return pa.Table.from_batches(full.to_batches(_LINES_A_BATCH), full.schema)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pa.NativeFile, pa.NativeFile]]:
    """The text, and the file itself, which may hold it compressed."""
    try:
        with pa.OSFile(str(path)) as file:
            try:
                codec = pa.Codec.detect(str(path)).name
            except TypeError:  # no such ending
                yield file, file
            else:
                with pa.CompressedInputStream(file, codec) as text:
                    yield text, file
    except FileNotFoundError:
        raise InputError("no such file", str(path)) from None
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError("cannot be read", str(path), found=reason) from None
