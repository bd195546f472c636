"""User and item ids: files that list them, and the check that two sets of ids are of one kind."""

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import SchemaError, first_line, raised_as
from pipeline.logs.conversion import ID_TYPES, plain_id_type, plain_ids, widest_id_type
from pipeline.logs.log_content import readable_table
from pipeline.logs.validation import check_not_twice
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import open_filesystem

_MAGIC = b"PAR1"
_LEAST_PARQUET = 12  # bytes


def check_same_kind(found: pa.DataType, where: str, expected: pa.DataType, origin: str) -> None:
    """Check that ids are integers where other ids are integers, and strings where they are strings.

    Args:
        found: The type of the ids at `where`.
        where: A file, for the error.
        expected: The type of the other ids.
        origin: Where the other ids come from, for the error.

    Raises:
        SchemaError: one type is integer, the other string.
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
    """The distinct ids in a file, of the `widest_id_type` of `kind`.

    Args:
        path: A local path or an object's URI. The file is Parquet with a column of name `column`,
            whose ids are of any type that logs may have, or UTF-8 text with one id per line, where
            the first line may be the column's name. Lines are not parsed: quotes, commas and spaces
            belong to an id that is text (see `as_known`). Empty lines are skipped.
        column: `user_id` or `item_id`.
        kind: The type of the ids to compare with. These must be of the same kind, but may be wider.
        origin: Where that type comes from, for the error.

    Raises:
        InputError: the file is missing or cannot be read.
        SchemaError: the column is missing or its ids are of another kind.
    """
    where, wide = os.fspath(path), widest_id_type(kind)
    with _opened(where, f"Parquet with a column {column}, or one id per line") as file:
        is_parquet = _is_parquet(file)
        ids = _from_parquet(file, where, column) if is_parquet else _from_text(file, column)
    if not is_parquet and pa.types.is_integer(kind):
        ids = _unquoted(_trimmed(ids))
    elif is_parquet and not pa.types.is_null(ids.type):
        check_same_kind(ids.type, where, kind, origin)
    with raised_as(
        SchemaError,
        pa.ArrowInvalid,
        "an id has the wrong type",
        where,
        expected=f"numbers ({wide}), as in {origin}" if pa.types.is_integer(wide) else str(wide),
        message=first_line,
    ):
        return ids.cast(wide).drop_null().unique()


def as_known(listed: pa.Array, known: pa.Array) -> pa.Array:
    """Listed ids in the form that is known: as listed, or else without white space and quotes.

    Exports of databases and spreadsheets pad and quote ids; such an id means the bare one unless
    the very text with its spaces and quotes is an id.

    Args:
        listed: (N,) distinct ids.
        known: The ids there are, of the same kind.

    Returns:
        (N,) ids, null where an id is not known in any form.
    """
    nothing = pa.scalar(None, listed.type)
    found = pc.if_else(pc.is_in(listed, value_set=known), listed, nothing)
    if pa.types.is_integer(listed.type):
        return found
    trimmed = _trimmed(listed)
    for form in (trimmed, _unquoted(trimmed)):
        found = pc.coalesce(found, pc.if_else(pc.is_in(form, value_set=known), form, nothing))
    return found


def _trimmed(ids: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(ids)


def _unquoted(ids: pa.Array) -> pa.Array:
    """The text inside one pair of quotes, where there is one; doubled quotes in it are single."""
    inner = pc.replace_substring_regex(ids, r"""(?s)\A(?:"(.*)"|'(.*)')\z""", r"\1\2")
    single = pc.replace_substring(inner, '""', '"')
    return pc.utf8_trim_whitespace(pc.if_else(pc.equal(inner, ids), ids, single))


def id_list_hash(path: str | os.PathLike[str]) -> str:
    """The `content_hash` of a file of ids.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with readable_table(os.fspath(path), "Parquet with a column of ids, or one id per line"):
        return content_hash(path)


@contextmanager
def _opened(path: str, expected: str) -> Iterator[pa.NativeFile]:
    with readable_table(path, expected):
        filesystem, inner = open_filesystem(path)
        with filesystem.open_input_file(inner) as file:
            yield file


def _is_parquet(file: pa.NativeFile) -> bool:
    """Whether a file is Parquet, damaged or not: the first id of a text may begin like it."""
    if file.read(len(_MAGIC)) != _MAGIC:
        file.seek(0)
        return False
    file.seek(0)
    content = file.read()
    file.seek(0)
    whole = len(content) >= _LEAST_PARQUET and content.endswith(_MAGIC)
    return whole or b"\0" in content


def _from_parquet(file: pa.NativeFile, where: str, column: str) -> pa.Array:
    columns = pq.read_schema(file)
    check_not_twice(columns, column, where)
    kind = plain_id_type(columns.field(column).type) if column in columns.names else None
    if kind is None:
        raise SchemaError(
            f"no column {column!r} of ids",
            where,
            expected=ID_TYPES,
            found=", ".join(f"{field.name} {field.type}" for field in columns),
        )
    return plain_ids(pq.read_table(file, columns=[column])[column].combine_chunks(), kind, where)


def _from_text(file: pa.NativeFile, column: str) -> pa.Array:
    content = file.read().removeprefix(codecs.BOM_UTF8)
    text = pa.array([content], pa.large_binary()).cast(pa.large_string())
    lines = pc.split_pattern(text, "\n").flatten()
    lines = pc.replace_substring_regex(lines, r"\r\z", "")
    if lines[0].as_py() == column:
        lines = lines[1:]
    return lines.filter(pc.not_equal(lines, ""))
