"""The check that an output replaces no input, by the places of both."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.storage import replaced_inputs
from pipeline.storage.folders import Folder
from pipeline.storage.replaced_inputs import check_replaces_no_input


@pytest.mark.parametrize("written", ["table/part.parquet", "table"])
@pytest.mark.parametrize("as_uri", [True, False])
def test_a_file_of_an_input_is_not_replaced_however_it_is_spelt(
    written: str, as_uri: bool, tmp_path: Path
) -> None:
    (tmp_path / "table").mkdir()
    read = (tmp_path / "table").as_uri() if as_uri else str(tmp_path / "x" / ".." / "table")
    with pytest.raises(ConfigError, match="--output: the output would replace an input"):
        check_replaces_no_input(tmp_path / written, "--output", [None, read])
    check_replaces_no_input(tmp_path / "other", "--output", [None, read])


def test_inputs_of_another_store_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def watched(path: str | Path) -> Folder:
        opened.append(str(path))
        return open_folder(path)

    open_folder = replaced_inputs.open_folder
    monkeypatch.setattr(replaced_inputs, "open_folder", watched)
    check_replaces_no_input("out.parquet", "--output", ["s3://bucket/users", "x.parquet"])
    assert opened == ["out.parquet", "x.parquet"]
