"""Commits to Delta tables: of two that began with the same version of a table, one fails."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import ConflictError, naming

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, WriterProperties

WRITER = "fearec"  # names our commits in Delta's log, so that two at once collide


def commit(
    table: "DeltaTable",
    rows: pa.RecordBatchReader | pa.Table,
    note: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write to a table as it was when it was opened; `table` becomes the new version.

    Args:
        table: Where to write.
        rows: What to write.
        note: Is kept with the commit.
        options: Further ones of `write_deltalake`.

    Raises:
        ConflictError: another run wrote to it meanwhile; nothing was changed.
    """
    with conflicts(place_of(table)):
        write(table, rows, next_transaction(table), note, **options)


def write(
    table: "DeltaTable | str",
    rows: pa.RecordBatchReader | pa.Table,
    transaction: tuple[str, int],
    note: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """`commit`, with an application id and version to note in Delta's log.

    Raises:
        CommitFailedError: another run wrote to it meanwhile; nothing was changed.
    """
    from deltalake import write_deltalake

    properties = properties_of(*transaction)
    if note:
        properties.custom_metadata = {WRITER: json.dumps(note)}
    options |= {"commit_properties": properties, "writer_properties": _packed(rows.schema)}
    with naming(place_of(table)):
        write_deltalake(table, rows, **options)


def next_transaction(table: "DeltaTable") -> tuple[str, int]:
    """The application id and version of the next commit: two at once have the same, and collide."""
    return WRITER, table.version() + 1


def properties_of(application: str, version: int) -> "CommitProperties":
    """The properties of a commit of that application id and version."""
    from deltalake import CommitProperties, Transaction

    return CommitProperties(app_transactions=[Transaction(application, version)])


def _packed(columns: pa.Schema) -> "WriterProperties":
    """Times and row numbers as packed differences: a dictionary of them costs, as few repeat."""
    from deltalake import ColumnProperties, WriterProperties

    packed = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
    names = [x.name for x in columns if pa.types.is_timestamp(x.type) or x.name == "source_row"]
    return WriterProperties(compression="SNAPPY", column_properties=dict.fromkeys(names, packed))


def place_of(table: "DeltaTable | str") -> str:
    """The path or URI of a table's folder, for messages."""
    uri = (table if isinstance(table, str) else table.table_uri).rstrip("/")
    local = uri.removeprefix("file://")
    return uri if local == uri else unquote(local)


@contextmanager
def conflicts(place: str) -> Iterator[None]:
    """Translate what delta-rs raises where another run wrote to a table meanwhile.

    Raises:
        ConflictError: inside the ``with`` block.
    """
    from deltalake.exceptions import CommitFailedError

    try:
        yield
    except CommitFailedError as error:
        raise conflict(place) from error


def conflict(place: str) -> ConflictError:
    """The error of a run that another run was faster than."""
    remedy = "Nothing was changed; run it again when the other has ended."
    return ConflictError("another run wrote to the table meanwhile", place, remedy=remedy)
