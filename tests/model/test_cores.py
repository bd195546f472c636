"""The cores and memory that a process may use: affinity, cgroups, and what several share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.cores import thread_count, usable_cores, usable_memory


def write(system: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text + "\n")


V1 = "sys/fs/cgroup/cpu"
V2 = "sys/fs/cgroup"
SLICE = "/night.slice/fearec.service"


def v1(quota: int, folder: str = "") -> dict[str, str]:
    names = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100_000}
    return {f"{V1}{folder}/{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),  # no Linux
        ({"proc/self/cgroup": "0::/"}, 16),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "max 100000"}, 16),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "250000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "20000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "99900000 100000"}, 16),
        # Of a slice, and of the service in it: the smaller counts.
        ({"proc/self/cgroup": f"0::{SLICE}", f"{V2}{SLICE}/cpu.max": "400000 100000",
          f"{V2}/night.slice/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": f"0::{SLICE}", f"{V2}{SLICE}/cpu.max": "400000 100000",
          f"{V2}/night.slice/cpu.max": "max 100000"}, 4),
        # A container that sees its host's name of the group, and its own group as the root.
        ({"proc/self/cgroup": "0::/docker/1f", f"{V2}/cpu.max": "500000 100000"}, 5),
        ({"proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/", **v1(200_000)}, 2),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/", **v1(-1)}, 16),
        ({"proc/self/cgroup": "4:cpuset:/", **v1(200_000)}, 16),  # not of this process
        ({"proc/self/cgroup": "4:cpu:/a/b\n0::/", **v1(600_000, "/a/b"), **v1(350_000, "/a")}, 4),
    ],
)  # fmt: skip
def test_quotas_bound_the_cores(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    write(tmp_path, files)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, 2**40),
        ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": "max"}, 2**40),
        ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": "5000"}, 5000),
        ({"proc/self/cgroup": f"0::{SLICE}", f"{V2}{SLICE}/memory.max": "5000",
          f"{V2}/night.slice/memory.max": "4000"}, 4000),
        ({"proc/self/cgroup": "5:memory:/a\n4:cpu:/",
          "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "3000",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, 3000),
    ],
)  # fmt: skip
def test_limits_bound_the_memory(
    files: dict[str, str], memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**28, "SC_PAGE_SIZE": 2**12}.get)
    write(tmp_path, files)
    assert usable_memory(tmp_path) == memory


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_bounds_the_cores() -> None:
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from model.cores import usable_cores
print(usable_cores())
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_processes_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [thread_count(7, processes) for processes in (1, 2, 3, 8)] == [7, 3, 2, 1]
    monkeypatch.setattr("model.cores.usable_cores", lambda: 6)
    assert [thread_count("auto", processes) for processes in (1, 4, 7)] == [6, 1, 1]
