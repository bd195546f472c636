"""The temporary database for sorts."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from pipeline.errors import MemoryShortError, StorageError, naming
from pipeline.storage.resources import ResourceSettings
from pipeline.storage.scratch_db import scalar, scratch_database, streamed


@pytest.mark.parametrize(("requested", "used"), [(3, 3), (64, 16), ("auto", 6)])
def test_it_has_the_memory_and_the_threads_of_the_settings(
    requested: int, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.cores.usable_cores", lambda: 6)
    resources = ResourceSettings(memory="2GiB", threads=requested)
    with scratch_database(tmp_path, resources) as db:
        assert scalar(db, "SELECT current_setting('threads')") == used
        ((memory,),) = db.execute("SELECT current_setting('memory_limit')").fetchall()
        assert memory == "2.0 GiB"


# 60 MB, sorted: more than the memory that a test gives.
SORTED = "SELECT hash(i) AS h, hash(i + 1) AS g FROM range(4_000_000) AS t(i) ORDER BY h"
LITTLE = ResourceSettings(memory="100MB", threads=1)


def execute(db: duckdb.DuckDBPyConnection) -> None:
    db.execute(f"CREATE TABLE sorted AS {SORTED}, g")


def read_by_another_library(db: duckdb.DuckDBPyConnection, query: str = SORTED) -> None:
    """Which makes an error of its own of what the stream raises."""
    with streamed(db, query) as rows, naming("a table"):
        try:
            rows.read_all()
        except Exception as error:
            raise RuntimeError("the other library failed") from error


@pytest.mark.parametrize("use", [execute, read_by_another_library])
def test_a_full_disk_is_named(tmp_path: Path, use: Callable[..., None]) -> None:
    def run() -> None:
        with scratch_database(tmp_path, LITTLE) as db:
            db.execute("SET max_temp_directory_size = '1MB'")  # as if it had no more
            use(db)

    with pytest.raises(StorageError, match=r"the disk is full: .*; found failed to off") as caught:
        run()
    assert caught.value.where == str(tmp_path)
    assert "used). Make room there" in str(caught.value)


def test_want_of_memory_is_not_blamed_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResourceSettings, "memory_limit", 3_000_000)
    short = pytest.raises(MemoryShortError, match=r"Out of Memory Error.*Raise resources\.memory")
    with short, scratch_database(tmp_path, LITTLE) as db:
        execute(db)


def test_a_folder_that_cannot_be_used_is_not_blamed_on_its_space(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "scratch"
    with (
        pytest.raises(StorageError, match=r"cannot be read or written; found IO Error") as caught,
        scratch_database(folder, LITTLE) as db,
    ):
        execute(db)
    assert caught.value.where == str(folder)
    assert "room" not in str(caught.value)


def test_a_query_that_fails_is_no_fault_of_the_folder(tmp_path: Path) -> None:
    query = "SELECT CAST(if(i = 100000, 'x', '1') AS INT) AS i FROM range(200000) AS t(i)"
    failed = pytest.raises(OSError, match="Could not convert string 'x'")
    with failed, scratch_database(tmp_path) as db:
        read_by_another_library(db, query)
