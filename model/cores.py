"""The cores and the memory of a process that shares its machine: affinity and cgroup limits."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

# A number of threads, or as many as there are cores that the process may use.
Threads = int | Literal["auto"]

_SYSTEM = Path("/")


def usable_cores(system: Path = _SYSTEM) -> int:
    """The cores that this process may use, at least 1.

    They are those of its affinity, as far as the quotas of its cgroups (v1 and v2: containers,
    systemd's slices) allow; a part of a core counts as one.

    Args:
        system: The root of the file system.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(system))]))


def thread_count(requested: Threads, processes: int = 1) -> int:
    """The threads of one of several processes that share `requested`, at least 1."""
    return max(1, (usable_cores() if requested == "auto" else requested) // processes)


def usable_memory(system: Path = _SYSTEM) -> int:
    """The bytes of memory that this process may use: the machine's, as far as its cgroups allow.

    Args:
        system: The root of the file system.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = _limits(system, "memory", ["memory.max"], ["memory.limit_in_bytes"])
    return min([machine, *(limit for (limit,) in limits)])


def _quotas(system: Path) -> Iterator[float]:
    """The cores per quota, of every cgroup that this process is in and those around it."""
    for quota, period in _limits(
        system, "cpu", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    ):
        yield quota / period


def _limits(system: Path, controller: str, v2: list[str], v1: list[str]) -> Iterator[list[int]]:
    """The numbers in some files of every cgroup that this process is in and those around it."""
    try:
        memberships = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    root = system / "sys/fs/cgroup"
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        below, names = (root / controller, v1) if controllers else (root, v2)
        # A container may see the host's path of its cgroup, but only its own cgroup, as the root.
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            try:
                words = [w for name in names for w in (below / folder / name).read_text().split()]
                numbers = [int(word) for word in words]
            except (OSError, ValueError):  # no such folder here, or no limit: "max"
                continue
            if min(numbers, default=0) > 0:  # v1 writes -1 where there is none
                yield numbers
