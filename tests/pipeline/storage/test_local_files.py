"""The listing of local folders, beside Arrow's."""

from pathlib import Path

import pyarrow.fs as pafs

from pipeline.storage.local_files import FoundFile, files_below


def test_sizes_and_times_are_those_that_arrow_gives(tmp_path: Path) -> None:
    # They tell files that were read already: a warehouse written before must know them again.
    for name in ("a.parquet", "x/b.parquet", "x/y/.c", "x/y/_d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.parquet").symlink_to("a.parquet")
    (tmp_path / "z").symlink_to("x")
    listed = pafs.LocalFileSystem().get_file_info(pafs.FileSelector(str(tmp_path), recursive=True))
    expected = {
        FoundFile(info.path.removeprefix(f"{tmp_path}/"), info.size, info.mtime_ns)
        for info in listed
        if info.is_file
    }
    assert set(files_below(str(tmp_path))) == expected
    assert len(expected) == 8


def test_a_broken_link_is_a_file_and_a_loop_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "gone.parquet").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(".")
    assert list(files_below(str(tmp_path))) == [FoundFile("gone.parquet", 0, 0)]
