"""Disks and stores that are full, read-only or away, told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from pipeline.config.settings import Settings
from pipeline.errors import StorageError, one_line


@contextmanager
def told_in_one_line(settings: Settings) -> Iterator[None]:
    """Make whatever the libraries raise about files and tables one `StorageError`.

    Raises:
        StorageError: with what the library raised as its cause.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _kinds()):
            raise
        raise StorageError(
            "cannot be read or written",
            str(getattr(error, "filename", None) or f"{settings.warehouse} or {settings.work_dir}"),
            found=one_line(error),
            remedy="Make room, see to permissions or the network, and run the same command again:"
            " what is done stays done.",
        ) from error


def _kinds() -> tuple[type[Exception], ...]:
    # Imported here, or a look at the settings would load them.
    from deltalake.exceptions import DeltaError
    from safetensors import SafetensorError

    return OSError, pa.ArrowException, duckdb.Error, DeltaError, SafetensorError
