"""Atomic writes by several writers."""

import threading
from pathlib import Path

import pytest

from pipeline.storage.atomic_files import hidden, replace_text


def test_two_writers_at_once_leave_one_whole_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "champion.json"
    texts = [letter * 50_000 for letter in "abcd"]
    errors: list[Exception] = []

    def write(text: str) -> None:
        try:
            for _ in range(25):
                replace_text(path, text)
                assert path.read_text() in texts
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [each.name for each in tmp_path.iterdir()] == ["champion.json"]


def test_a_killed_writers_file_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / hidden("a.json")).write_text("half")
    replace_text(tmp_path / "a.json", "whole")
    assert (tmp_path / "a.json").read_text() == "whole"
    assert (tmp_path / hidden("a.json")).read_text() == "half"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        replace_text(tmp_path / "a.json", "\ud800")
    assert list(tmp_path.iterdir()) == []
