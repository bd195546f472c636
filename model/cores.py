"""The number of threads for a process that shares its machine: affinity and cgroup quotas."""

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


def _quotas(system: Path) -> Iterator[float]:
    """The cores per quota, of every cgroup that this process is in and those around it."""
    try:
        memberships = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    root = system / "sys/fs/cgroup"
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        # A container may see the host's path of its cgroup, but only its own cgroup, as the root.
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            try:
                if not controllers:
                    quota, period = (root / folder / "cpu.max").read_text().split()
                elif "cpu" in controllers.split(","):
                    cpu = root / "cpu" / folder
                    quota = (cpu / "cpu.cfs_quota_us").read_text()
                    period = (cpu / "cpu.cfs_period_us").read_text()
                else:
                    continue
                cores = int(quota) / int(period)
            except (OSError, ValueError):  # no such folder here, or no quota: "max"
                continue
            if cores > 0:  # v1 writes -1 where there is none
                yield cores
