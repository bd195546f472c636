"""Small files are replaced whole, through no link, and by several writers."""

import threading
from pathlib import Path
from shutil import rmtree

import pytest

from pipeline.storage.atomic_files import files_below, is_unfinished, replace_text


def test_a_link_of_the_unfinished_name_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".champion.json.tmp").symlink_to(outside)  # the one name of version 0.1.0

    replace_text(folder / "champion.json", "new")

    assert (folder / "champion.json").read_text() == "new"
    assert outside.read_text() == "precious"


def test_a_folder_that_goes_while_files_are_listed_is_no_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    listed = files_below(tmp_path)
    first = next(listed).parent
    rmtree(*({tmp_path / "a", tmp_path / "b"} - {first}))
    assert [*listed] == []


def test_a_write_that_fails_leaves_the_old_text_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    replace_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.json", "old")]


def test_unfinished_names_are_told_from_others() -> None:
    for name in (".x.json.tmp", ".x.json.0123456789abcdef.tmp"):
        assert is_unfinished(name, of="x.json")
        assert not is_unfinished(name, of="json")
    assert not is_unfinished(".xyjson.tmp", of="x.json")


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
    (tmp_path / ".a.json.tmp").write_text("half")
    replace_text(tmp_path / "a.json", "whole")
    assert (tmp_path / "a.json").read_text() == "whole"
    assert (tmp_path / ".a.json.tmp").read_text() == "half"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        replace_text(tmp_path / "a.json", "\ud800")
    assert list(tmp_path.iterdir()) == []
