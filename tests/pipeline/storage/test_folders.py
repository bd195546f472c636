"""Local folders; those in object stores are tested in `tests/end_to_end/test_object_store.py`."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.folders import LocalFolder
from tests.helpers.scoring_cases import Killed


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_early_leaves_the_output_folder_as_it_was(
    tmp_path: Path, there: bool
) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(Killed), LocalFolder(out).scratch():
        raise Killed
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if there else [])
    assert not there or not list(out.iterdir())


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("broken", ["rmdir", "unlink"])
def test_tidying_that_fails_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, there: bool
) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()

    def busy(path: Path, **options: Any) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, broken, busy)
    with pytest.raises(Killed), LocalFolder(out).scratch():
        raise Killed
