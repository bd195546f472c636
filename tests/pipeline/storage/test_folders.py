"""Local folders; those in object stores are tested in `tests/end_to_end/test_object_store.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.transfer import opened_bundle
from pipeline.errors import ConfigError
from pipeline.storage.folders import LocalFolder
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.tables import dataset_of, open_or_create_table
from tests.helpers.scoring_cases import START, Killed, rows, run, write_log

ODD = ["a%2Fb", "a%20b", "100%", "run:1", "x?y", "a b", "#z", "é", "[x]", "back\\slash"]
# Folders that delta-rs cannot use.
NO_WAREHOUSE = ["a%2Fb", "a%20b", "[x]", "a|b", "a^b", "a]b", "back\\slash", "line\nbreak"]


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


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        # By default each once, in turn from the root and from the working directory.
        pytest.param(name, relative, marks=[pytest.mark.slow] * (relative != bool(number % 2)))
        for number, name in enumerate(ODD)
        for relative in (False, True)
    ],
)
def test_every_local_path_is_a_path_and_never_half_a_uri(
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    relative: bool,
) -> None:
    root = tmp_path / name
    make_bundle(root / "bundle")
    write_log(root / "logs" / "x.parquet", [("u", "item1", START)])
    (root / "deny.txt").write_text("item2\n")
    (root / "users.txt").write_text("u\n")
    if relative:
        monkeypatch.chdir(tmp_path)
        root = Path(name)

    files = {"deny": root / "deny.txt", "users": root / "users.txt"}
    for flag in ("", "resume", "overwrite"):
        flags = {flag: True} if flag else {}
        with opened_bundle(root / "bundle") as bundle:
            run(root / "logs", bundle, root / "out", **files, **flags)

    assert set(rows(tmp_path / name / "out")) == {"u"}
    assert {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", sorted({*ODD, *NO_WAREHOUSE}))
def test_a_table_is_read_where_it_was_written_or_its_path_is_refused(
    tmp_path: Path, name: str
) -> None:
    columns = pa.schema([("user_id", pa.int64())])
    if name in NO_WAREHOUSE:
        for root in (str(tmp_path / name), (tmp_path / name).as_uri()):
            with pytest.raises(ConfigError, match="Delta tables"):
                Warehouse(root)
        return
    uri = Warehouse(str(tmp_path / name)).table("interactions")
    open_or_create_table(uri, columns)
    assert dataset_of(open_or_create_table(uri, columns)).schema == columns
    assert (tmp_path / name / "interactions" / "_delta_log").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NO_WAREHOUSE)
def test_delta_rs_itself_cannot_use_a_path_that_is_refused(tmp_path: Path, name: str) -> None:
    table = tmp_path / name / "table"
    table.parent.mkdir()
    (tmp_path / "link").symlink_to(table.parent)
    rows = pa.table({"user_id": [1]})
    for uri in (str(table), table.as_uri(), (tmp_path / "link/table").as_uri()):
        # A panic is no Exception. Where this passes, `Warehouse` need not refuse the path any more.
        with pytest.raises(BaseException, match=r"not found|InvalidDomain|illegal character"):
            write_deltalake(uri, rows)
