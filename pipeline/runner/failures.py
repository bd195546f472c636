"""Storage failures of a run: full or read-only disks, object stores that do not answer."""

from contextlib import AbstractContextManager

import duckdb
import pyarrow as pa

from pipeline.config.settings import Settings
from pipeline.errors import StorageError, raised_as


def storage_failures(settings: Settings) -> AbstractContextManager[None]:
    """Turn what the libraries raise about files and tables into a one-line `StorageError`.

    Raises:
        StorageError: inside the ``with`` block, with the library's exception as its cause.
    """
    # Imported here, or a look at the settings would load them.
    from deltalake.exceptions import DeltaError
    from safetensors import SafetensorError

    return raised_as(
        StorageError,
        (OSError, pa.ArrowException, duckdb.Error, DeltaError, SafetensorError),
        "cannot be read or written",
        f"{settings.warehouse} or {settings.work_dir}",
        remedy="Make room, check permissions or the network, and run the same command again:"
        " what is done stays done.",
        name_file=True,
    )
