"""Storage failures of a run, such as full disks and absent stores, and want of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from pipeline.config.settings import Settings
from pipeline.errors import StorageError, full_disks, memory_failures, raised_as


@contextmanager
def storage_failures(settings: Settings) -> Iterator[None]:
    """Turn what the libraries raise about files, tables and memory into a one-line error.

    Raises:
        StorageError: inside the ``with`` block, with the library's exception as its cause.
        MemoryShortError: likewise, where memory is short.
    """
    # Imported here, or a look at the settings would load them.
    from deltalake.exceptions import DeltaError
    from safetensors import SafetensorError

    somewhere = f"{settings.warehouse} or {settings.work_dir}"
    with (
        raised_as(
            StorageError,
            (OSError, pa.ArrowException, duckdb.Error, DeltaError, SafetensorError),
            "cannot be read or written",
            somewhere,
            remedy="Make room, check permissions or the network, and run the same command again:"
            " what is done stays done. A table with damaged files may be moved away: `interactions`"
            " and `quarantine` are then read from the logs again, others begin anew.",
            name_file=True,
        ),
        full_disks(somewhere),
        memory_failures(),
    ):
        yield
