"""The warehouse's Delta tables: where they are, how they are opened and appended to."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.errors import FearecError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable

_WRITER = "fearec"  # names our appends in Delta's log, so that two at once collide


def table_uri(settings: Settings, name: str) -> str:
    """The path or URI of a table of the warehouse, such as ``interactions``."""
    if "://" in settings.warehouse:
        return f"{settings.warehouse.rstrip('/')}/{name}"
    return str(Path(settings.warehouse) / name)


def open_table(settings: Settings, name: str, version: int | None = None) -> "DeltaTable | None":
    """A table at a version (default its latest), or None where there is no such table yet."""
    from deltalake import DeltaTable

    uri = table_uri(settings, name)
    return DeltaTable(uri, version) if DeltaTable.is_deltatable(uri) else None


def open_or_create_table(settings: Settings, name: str, schema: pa.Schema) -> "DeltaTable":
    """A table at its latest version; an empty one of `schema` where there is none yet.

    Integer columns narrower than in `schema` are widened, which rewrites the table.
    """
    from deltalake import DeltaTable, write_deltalake

    table = open_table(settings, name)
    if table is None:
        return DeltaTable.create(table_uri(settings, name), schema)
    stored = table.to_pyarrow_dataset()
    if stored.schema.types != schema.types:
        rows = stored.scanner().to_reader().cast(schema)
        write_deltalake(table, rows, mode="overwrite", schema_mode="overwrite")
    return table


def append(table: "DeltaTable", rows: pa.RecordBatchReader) -> None:
    """Append to a table as it was when it was opened; `table` becomes the new version.

    Raises:
        FearecError: another run appended to it meanwhile; nothing was added.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    transaction = Transaction(_WRITER, table.version() + 1)
    properties = CommitProperties(app_transactions=[transaction])
    try:
        write_deltalake(table, rows, mode="append", commit_properties=properties)
    except CommitFailedError as error:
        raise FearecError(
            "another run wrote to the table meanwhile",
            table.table_uri,
            found=str(error),
            remedy="Nothing was added; run it again when the other has ended.",
        ) from None


def models_folder(settings: Settings) -> Path:
    """Where bundles are: ``models/`` of the warehouse, in `work_dir` beside an object store's."""
    root = settings.work_dir if "://" in settings.warehouse else Path(settings.warehouse)
    return root / "models"
