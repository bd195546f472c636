"""The temporary database for sorts."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import StorageError
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


def test_a_query_that_fails_while_another_library_reads_it_is_named(tmp_path: Path) -> None:
    """The library makes an error of its own of what the stream raises."""
    query = "SELECT CAST(if(i = 100000, 'x', '1') AS INT) AS i FROM range(200000) AS t(i)"

    def read() -> None:
        with scratch_database(tmp_path) as db, streamed(db, query) as rows:
            try:
                rows.read_all()
            except (OSError, pa.ArrowException) as error:
                raise RuntimeError("the other library failed") from error

    with pytest.raises(StorageError, match=rf"^{tmp_path}: .*Could not convert string 'x'"):
        read()
