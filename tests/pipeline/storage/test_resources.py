"""What a run may use of its machine."""

import pytest

from pipeline.errors import ConfigError
from pipeline.storage.resources import ResourceSettings


@pytest.mark.parametrize(
    ("memory", "limit"),
    [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("500mb", 5 * 10**8), ("2TB", 2 * 10**12)],
)
def test_sizes_are_read_as_duckdb_reads_them(memory: str, limit: int) -> None:
    assert ResourceSettings(memory=memory).memory_limit == limit


@pytest.mark.parametrize("memory", ["8", "GB", "-8GB", "8 PB", "99MB", "half", ""])
def test_other_sizes_are_refused(memory: str) -> None:
    with pytest.raises(ConfigError, match="at least 100MB"):
        ResourceSettings(memory=memory)


@pytest.mark.parametrize(("usable", "limit"), [(2**30, 10**9), (120 * 2**30, 12 * 2**30)])
def test_auto_is_a_share_of_what_the_process_may_use(
    usable: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.resources.usable_memory", lambda: usable)
    assert ResourceSettings().memory_limit == limit


def test_threads_have_memory_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.cores.usable_cores", lambda: 64)
    assert ResourceSettings(memory="1GiB").thread_limit == 8
    assert ResourceSettings(memory="1GiB", threads=2).thread_limit == 2
    assert ResourceSettings(memory="100MB").thread_limit == 1
    with pytest.raises(ConfigError, match="a whole number from 1 on, or auto"):
        ResourceSettings(threads=0)


def test_workers_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.resources.usable_cores", lambda: 16)
    monkeypatch.setattr("pipeline.storage.resources.usable_memory", lambda: 160 * 10**9)
    four = ResourceSettings().of_one_worker(4)
    assert (four.memory_limit, four.thread_limit) == (4 * 10**9, 4)
    assert ResourceSettings().of_one_worker(1).memory_limit == 10**9
    assert ResourceSettings(memory="3GB").of_one_worker(4).memory_limit == 3 * 10**9
