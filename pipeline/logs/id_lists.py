"""User and item ids: reading files of them, and refusing to compare numbers with strings."""

import codecs
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError, SchemaError, one_line
from pipeline.schema import is_id_type
from pipeline.storage.folders import open_filesystem


def refuse_mixed(found: pa.DataType, where: str, expected: pa.DataType, origin: str) -> None:
    """Refuse ids of one kind where another part has the other kind.

    Raises:
        SchemaError: one is integers, the other strings.
    """
    if pa.types.is_integer(found) != pa.types.is_integer(expected):
        raise SchemaError(
            "ids of another kind",
            where,
            expected=f"{expected} as in {origin}",
            found=str(found),
            remedy="Cast the ids of one to the type of the other.",
        )


def read_ids(path: str | os.PathLike[str], column: str, kind: pa.DataType, origin: str) -> pa.Array:
    """The distinct ids in a file, as `kind`.

    Args:
        path: Local, or an object's URI. Parquet with a column of that name, or UTF-8 text with one
            id a line, the first of which may be the column's name. A line is taken as it stands,
            quotes, commas and spaces included; empty lines are skipped.
        column: `user_id` or `item_id`.
        kind: The ids' type.
        origin: Where that type comes from, for the error.

    Raises:
        InputError: the file is missing or cannot be read.
        SchemaError: the column is missing or its ids are of another kind.
    """
    where = os.fspath(path)
    with _open(where, f"Parquet with a column {column}, or one id a line") as file:
        is_parquet = file.read(4) == b"PAR1"
        file.seek(0)
        ids = _from_parquet(file, where, column) if is_parquet else _from_text(file, column)
    if is_parquet:
        refuse_mixed(ids.type, where, kind, origin)
    try:
        return ids.cast(kind).drop_null().unique()
    except pa.ArrowInvalid as error:
        raise SchemaError(
            "an id is not of the type it must have",
            where,
            expected=f"{kind} as in {origin}",
            found=str(error).splitlines()[0],
        ) from None


def digest_of(path: str | os.PathLike[str]) -> str:
    """What changes when a file of ids does: its sha256.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with _open(os.fspath(path), "a file of ids") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _open(path: str, expected: str) -> Iterator[pa.NativeFile]:
    try:
        filesystem, inner = open_filesystem(path)
        with filesystem.open_input_file(inner) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot be read: {one_line(error)}", path, expected) from None


def _from_parquet(file: pa.NativeFile, where: str, column: str) -> pa.Array:
    names = pq.read_schema(file)
    if column not in names.names or not is_id_type(names.field(column).type):
        raise SchemaError(
            f"no column {column!r} of integers or strings",
            where,
            found=", ".join(f"{field.name} {field.type}" for field in names),
        )
    return pq.read_table(file, columns=[column])[column].combine_chunks()


def _from_text(file: pa.NativeFile, column: str) -> pa.Array:
    content = file.read().removeprefix(codecs.BOM_UTF8)
    text = pa.array([content], pa.large_binary()).cast(pa.large_string())
    lines = pc.split_pattern(text, "\n").flatten()
    lines = pc.replace_substring_regex(lines, r"\r\z", "")
    if lines[0].as_py() == column:
        lines = lines[1:]
    return lines.filter(pc.not_equal(lines, ""))
