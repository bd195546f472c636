"""What a run may use of its machine: the settings' section `[resources]`."""

import re
from pathlib import Path

from pydantic import Field, field_validator

from model.cores import thread_count, usable_cores, usable_memory
from model.pydantic_base import NO_RESULT_CHANGE, CountOrAuto, Frozen

_SHARE = 10  # of the memory; the sorts and joins of DuckDB gain little by more
_LEAST = 10**9  # bytes
_PER_THREAD = 2**27  # bytes
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ResourceSettings(Frozen):
    """The memory, the threads and the folder of sorts and joins that are larger than memory."""

    section = "resources"

    memory: str = Field(
        "auto",
        description="for DuckDB, such as `8GB`; beyond it, it writes to disk. `auto`: a tenth of "
        "what this process may use, at least 1GB",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    threads: CountOrAuto = Field(
        "auto",
        description="of DuckDB, one per 128 MiB of its memory at most; `auto`: the cores that this "
        "process may use",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    scratch_dir: Path | None = Field(
        None,
        description="folder of the temporary files of sorts and joins; default in `work_dir`, and "
        "the system's for `fearec-score`, for what is listed per user and for the report",
        json_schema_extra=NO_RESULT_CHANGE,
    )

    @field_validator("memory")
    @classmethod
    def _readable(cls, memory: str) -> str:
        if memory != "auto" and _bytes_of(memory) < 10**8:
            raise ValueError("must be auto, or at least 100MB in the form 8GB")
        return memory

    @property
    def memory_limit(self) -> int:
        """The memory in bytes."""
        if self.memory == "auto":
            return max(_LEAST, usable_memory() // _SHARE)
        return _bytes_of(self.memory)

    @property
    def thread_limit(self) -> int:
        """The number of threads."""
        return max(1, min(self.memory_limit // _PER_THREAD, thread_count(self.threads)))

    def of_one_worker(self, cores: int) -> "ResourceSettings":
        """What a worker may use that has so many cores of this machine, where others have the rest.

        A memory that is set is each worker's.
        """
        share = min(cores, usable_cores()) / usable_cores()
        memory = max(_LEAST, int(usable_memory() * share / _SHARE))
        chosen = {"memory": f"{memory}B"} if self.memory == "auto" else {}
        return self.model_copy(update={**chosen, "threads": cores})


DEFAULT_RESOURCES = ResourceSettings()


def _bytes_of(memory: str) -> int:
    """A size such as 8GB or 512 MiB in bytes; 0 where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", memory.strip(), re.IGNORECASE)
    if not found:
        return 0
    number, unit, binary = found.groups()
    return int(float(number) * (_BINARY if binary else _UNITS)[unit.upper()])
