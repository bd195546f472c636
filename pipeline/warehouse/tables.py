"""The warehouse's Delta tables: where they are, how they are opened and appended to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from pipeline.errors import FearecError, one_line
from pipeline.storage.folders import Folder, LocalFolder, open_folder
from pipeline.config.settings import Settings

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


def dataset_of(table: "DeltaTable") -> ds.Dataset:
    """The rows of a table, read by Arrow's own file systems.

    Through delta-rs's, which are Python's, Arrow's threads may still call into an interpreter that
    is ending, which aborts the process.
    """
    uri = table.table_uri
    files, path = fs.FileSystem.from_uri(uri if "://" in uri else Path(uri).absolute().as_uri())
    return table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(path, files))


def open_or_create_table(settings: Settings, name: str, schema: pa.Schema) -> "DeltaTable":
    """A table at its latest version; an empty one of `schema` where there is none yet.

    Integer columns narrower than in `schema` are widened, which rewrites the table.

    Raises:
        FearecError: another run wrote to it meanwhile.
    """
    from deltalake import DeltaTable

    table = open_table(settings, name)
    if table is None:
        return DeltaTable.create(table_uri(settings, name), schema)
    stored = dataset_of(table)
    if stored.schema.types != schema.types:
        replace(table, all_rows(table).cast(schema))
    return table


def all_rows(table: "DeltaTable") -> pa.RecordBatchReader:
    """Everything in a table, as a stream."""
    # Few batches ahead: the table may be far larger than memory.
    dataset = dataset_of(table)
    return dataset.scanner(batch_size=1 << 16, batch_readahead=2, fragment_readahead=1).to_reader()


def has_table(settings: Settings, name: str, identity: str, version: int = 0) -> bool:
    """Whether the table of that `table_id` is there, and has come to a version."""
    table = open_table(settings, name)
    return table is not None and table_id(table) == identity and table.version() >= version


def table_id(table: "DeltaTable") -> str:
    """What tells a table from one made later in its place, whose versions begin again at 0."""
    return str(table.metadata().id)


def append(table: "DeltaTable", rows: pa.RecordBatchReader) -> None:
    """Append to a table as it was when it was opened; `table` becomes the new version.

    Raises:
        FearecError: another run wrote to it meanwhile; nothing was added.
    """
    _write(table, rows, mode="append")


def replace(table: "DeltaTable", rows: pa.RecordBatchReader) -> None:
    """Put rows in the place of all of a table, in one commit; `table` becomes the new version.

    Raises:
        FearecError: another run wrote to it meanwhile; the table is as that left it.
    """
    partitions = table.metadata().partition_columns
    _write(table, rows, mode="overwrite", schema_mode="overwrite", partition_by=partitions)


def _write(table: "DeltaTable", rows: pa.RecordBatchReader, **how: Any) -> None:
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    transaction = Transaction(_WRITER, table.version() + 1)
    properties = CommitProperties(app_transactions=[transaction])
    try:
        write_deltalake(table, rows, commit_properties=properties, **how)
    except CommitFailedError as error:
        raise FearecError(
            "another run wrote to the table meanwhile",
            table.table_uri,
            found=one_line(error),
            remedy="Nothing was changed; run it again when the other has ended.",
        ) from error


def models(settings: Settings, bundle: str = "") -> Folder:
    """``models/`` of the warehouse, with `champion.json`; or the folder of a bundle in there."""
    return open_folder(table_uri(settings, f"models/{bundle}".rstrip("/")))


def models_folder(settings: Settings) -> Path:
    """Where bundles are on this machine: an object store's are copied to `work_dir`."""
    folder = models(settings)
    return Path(folder.where) if isinstance(folder, LocalFolder) else settings.work_dir / "models"
