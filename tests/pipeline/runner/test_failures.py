"""What the libraries raise about disks and memory, as the one-line errors of a run."""

import errno

import duckdb
import pyarrow as pa
import pytest
import torch
from deltalake.exceptions import DeltaError
from safetensors import SafetensorError

from pipeline.config.settings import Settings
from pipeline.errors import MemoryShortError, StorageError
from pipeline.runner.failures import storage_failures


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/full"), "/disk/full"),
        (pa.ArrowInvalid("disk\nfull"), "disk full"),
        (duckdb.IOException("disk\nfull"), "disk full"),
        (DeltaError("disk\nfull"), "disk full"),
        (SafetensorError("disk\nfull"), "disk full"),
    ],
)
def test_a_full_disk_is_told_in_one_line(error: Exception, found: str) -> None:
    with pytest.raises(StorageError, match=found) as caught, storage_failures(Settings()):
        raise error
    assert "\n" not in str(caught.value)
    assert (caught.value.exit_code, caught.value.__cause__) == (1, error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        duckdb.OutOfMemoryException(
            "Out of Memory Error: could not allocate block of size 256 KiB"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nmore"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer"),
    ],
)
def test_want_of_memory_is_not_blamed_on_the_disk(error: Exception) -> None:
    with (
        pytest.raises(MemoryShortError, match="not enough memory") as caught,
        storage_failures(Settings()),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert "room" not in str(caught.value)


def test_a_full_disk_of_the_spill_is_not_blamed_on_memory() -> None:
    message = "Out of Memory Error: failed to offload data block of size 256.0 KiB"
    with pytest.raises(StorageError, match="Make room"), storage_failures(Settings()):
        raise duckdb.OutOfMemoryException(message)
