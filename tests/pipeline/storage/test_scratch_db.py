"""The temporary database for sorts."""

from pathlib import Path

import pytest

from pipeline.storage.scratch_db import scalar, scratch_database


@pytest.mark.parametrize(("requested", "used"), [(3, 3), (64, 8), ("auto", 6)])
def test_it_uses_as_many_threads_as_it_may(
    requested: int, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.cores.usable_cores", lambda: 6)
    with scratch_database(tmp_path, requested) as db:
        assert scalar(db, "SELECT current_setting('threads')") == used
