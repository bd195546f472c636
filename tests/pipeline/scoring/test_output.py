"""The output folder: parts that are whole, kills, resuming and replacing."""

import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError
from pipeline.bundles.bundle import Bundle
from pipeline.errors import BundleError, BusyError, InputError, PublishError, ResumeError
from pipeline.rules.user_segments import user_segments
from pipeline.scoring import scorer
from pipeline.storage.folders import Folder, LocalFolder
from tests.helpers.scoring_cases import (
    START,
    Killed,
    events,
    kill_after,
    kill_at,
    random_histories,
    rows,
    run,
    write_log,
    write_sequences,
)

CHANGES = ((LocalFolder, "put"), (LocalFolder, "put_text"), (Folder, "remove"))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "PART_USERS", 16)


def flip_a_bit(part: Path) -> None:
    """Damage that leaves the footer, and thereby the number of rows, as it was."""
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("parts", "when"), [(0, "write"), (2, "write"), (1, "_record"), (3, "_record")]
)
@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_a_resumed_run_leaves_the_table_of_an_undisturbed_one(
    tiny_bundle: Bundle, tmp_path: Path, parts: int, when: str, kind: str
) -> None:
    history = random_histories(70)
    path = tmp_path / f"{kind}.parquet"
    write_log(path, events(history)) if kind == "log" else write_sequences(path, history)
    whole = run(path, tiny_bundle, tmp_path / "whole")

    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, parts, when=when)
        with pytest.raises(Killed):
            run(path, tiny_bundle, tmp_path / "out")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    if kept:
        assert not json.loads((tmp_path / "out/_manifest.json").read_text())["complete"]
    resumed = run(path, tiny_bundle, tmp_path / "out", resume=True)

    assert pq.read_table(tmp_path / "out").drop(["generated_at"]) == (
        pq.read_table(tmp_path / "whole").drop(["generated_at"])
    )
    assert len(pc.unique(pq.read_table(tmp_path / "out")["generated_at"])) == 1
    assert (resumed.n_users, resumed.n_rows) == (whole.n_users, whole.n_rows)
    assert (resumed.n_fallback, resumed.n_short) == (whole.n_fallback, whole.n_short)
    assert resumed.unknown_items == whole.unknown_items
    if when == "write" and parts:
        assert all(file.stat().st_mtime_ns == before for file, before in kept.items())
        assert len(kept) == parts
    manifest = json.loads((tmp_path / "out/_manifest.json").read_text())
    assert manifest["complete"]
    assert len(manifest["parts"]) == 5
    assert not list((tmp_path / "out").glob(".*"))


def test_a_file_uri_is_a_folder_on_the_disk(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    out = tmp_path / "an out"
    result = run(path, tiny_bundle, out.as_uri())
    assert result.folder == str(out)
    assert len(rows(out)) == 9
    assert sorted(file.name for file in out.iterdir()) == ["_manifest.json", "part-00000.parquet"]


def test_resuming_a_finished_run_changes_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    first = run(path, tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    again = run(path, tiny_bundle, tmp_path / "out", resume=True)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert (again.n_users, again.n_rows) == (first.n_users, first.n_rows)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("spoil", [Path.unlink, lambda part: part.write_bytes(b""), flip_a_bit])
def test_resuming_scores_again_from_the_first_part_that_is_not_as_it_was(
    tiny_bundle: Bundle, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(70))
    whole = run(path, tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    files = sorted((tmp_path / "out").glob("part-*"))
    first = files[0].stat().st_mtime_ns
    spoil(files[2])

    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, 0, when="write")
        with pytest.raises(Killed):
            run(path, tiny_bundle, tmp_path / "out", resume=True)
    assert all(file.exists() for file in files if file != files[2])  # until one is replaced
    resumed = run(path, tiny_bundle, tmp_path / "out", resume=True)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert (resumed.n_users, resumed.n_rows) == (whole.n_users, whole.n_rows)
    assert files[0].stat().st_mtime_ns == first


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("flag", ["resume", "overwrite"])
@pytest.mark.parametrize(
    "steps",  # the last of them after the first new part
    [(0, 1, 8, 9), pytest.param(range(10), marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_whatever_moment_replacing_is_killed_at_the_folder_stays_our_own(
    tiny_bundle: Bundle, tmp_path: Path, flag: str, steps: Sequence[int]
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(70))
    settings = {"top_k": 5 if flag == "resume" else 4}
    run(path, tiny_bundle, tmp_path / "whole", **settings)
    for step in steps:
        out = tmp_path / str(step)
        run(path, tiny_bundle, out)
        (out / "part-00000.parquet").write_bytes(b"")
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, step, CHANGES)
            with pytest.raises(Killed):
                run(path, tiny_bundle, out, **settings, **{flag: True})
        manifest = json.loads((out / "_manifest.json").read_text())
        assert manifest["complete"] == (step == 0)

        run(path, tiny_bundle, out, **settings, **{flag: True})

        assert rows(out) == rows(tmp_path / "whole")
        assert len(list(out.iterdir())) == 6


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_two_runs_do_not_write_to_one_folder(
    tiny_bundle: Bundle, tmp_path: Path, flag: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(70))
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(path, tiny_bundle, whole)
    refused = []

    def meanwhile(done: int, total: int | None) -> None:
        with pytest.raises(BusyError, match="another run writes here"):
            run(path, tiny_bundle, out, **{flag: True})
        refused.append(done)

    run(path, tiny_bundle, out, progress=meanwhile)

    assert refused
    assert rows(out) == rows(whole)
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()}


def test_a_run_is_not_resumed_with_another_bundle_input_or_settings(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    (tmp_path / "deny.txt").write_text("item1\n")
    deny = {"deny": tmp_path / "deny.txt", "resume": True}
    run(path, tiny_bundle, tmp_path / "out", deny=tmp_path / "deny.txt")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    other = make_bundle(tmp_path / "other", popularity=[1] * 40)
    with pytest.raises(ResumeError, match=r"bundle items\.parquet is not what it was"):
        run(path, other, tmp_path / "out", **deny)
    with pytest.raises(ResumeError, match="settings top_k is not what it was; expected 5; found 6"):
        run(path, tiny_bundle, tmp_path / "out", top_k=6, **deny)
    with pytest.raises(ResumeError, match="settings run_date"):
        run(path, tiny_bundle, tmp_path / "out", run_date=date(2026, 11, 21), **deny)
    (tmp_path / "deny.txt").write_text("item2\n")
    with pytest.raises(ResumeError, match=r"inputs .*deny\.txt"):
        run(path, tiny_bundle, tmp_path / "out", **deny)
    (tmp_path / "deny.txt").write_text("item1\n")
    write_sequences(path, random_histories(10))
    with pytest.raises(ResumeError, match=r"inputs .*s\.parquet"):
        run(path, tiny_bundle, tmp_path / "out", **deny)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.usefixtures("small_parts")
def test_a_rules_file_that_changes_while_a_run_reads_it_is_another_when_that_is_resumed(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.parquet", events(random_histories(70)))
    deny, options = tmp_path / "deny.txt", {"deny": str(tmp_path / "deny.txt")}
    deny.write_text("item3\n")

    def replaced_meanwhile(*given: Any) -> Any:
        deny.write_text("item5\n")
        return user_segments(*given)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("pipeline.scoring.run.user_segments", replaced_meanwhile)
        kill_after(monkeypatch, 2, when="write")
        with pytest.raises(Killed):
            run(log, tiny_bundle, tmp_path / "out", **options)
    with pytest.raises(ResumeError, match=r"deny\.txt"):
        run(log, tiny_bundle, tmp_path / "out", resume=True, **options)


def test_an_output_folder_that_is_not_empty_needs_a_flag(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    run(path, tiny_bundle, tmp_path / "out")

    with pytest.raises(ConfigError, match=r"not empty.*--overwrite"):
        run(path, tiny_bundle, tmp_path / "out")
    run(path, tiny_bundle, tmp_path / "out", top_k=2, overwrite=True)

    assert all(len(mine) == 2 for mine in rows(tmp_path / "out").values())
    (tmp_path / "out" / "mine.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"did not write.*mine\.parquet"):
        run(path, tiny_bundle, tmp_path / "out", overwrite=True)
    with pytest.raises(ConfigError, match="contradict"):
        run(path, tiny_bundle, tmp_path / "out", overwrite=True, resume=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_text("x")
    with pytest.raises(ResumeError, match="no run to resume"):
        run(path, tiny_bundle, tmp_path / "foreign", resume=True)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_only_what_the_manifest_lists_is_replaced(
    tiny_bundle: Bundle, tmp_path: Path, flag: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    out = tmp_path / "out"
    out.mkdir()
    theirs = write_log(out / "part-0.parquet", [("u", "item1", START)])
    with pytest.raises(ConfigError, match="no run to resume" if flag == "resume" else "did not"):
        run(path, tiny_bundle, out, **{flag: True})  # there is no manifest
    assert pq.read_table(theirs).num_rows == 1
    theirs.unlink()

    run(path, tiny_bundle, out)
    for name in ("part-0.parquet", "part-00002.parquet"):
        theirs = write_log(out / name, [("u", "item1", START)])
        with pytest.raises(ConfigError, match=rf"did not write.*found {name}\."):
            run(path, tiny_bundle, out, **{flag: True})
        assert pq.read_table(theirs).num_rows == 1
        theirs.unlink()

    (out / "_manifest.json").write_text("{")
    before = {file: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ConfigError, match=r"_manifest\.json"):
        run(path, tiny_bundle, out, **{flag: True})
    assert {file: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("flag", ["resume", "overwrite"])
@pytest.mark.parametrize("absolute", [False, True])
def test_no_file_outside_the_output_is_removed_whatever_its_manifest_lists(
    tiny_bundle: Bundle, tmp_path: Path, flag: str, absolute: bool
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(40))
    out, outside = tmp_path / "out", tmp_path / "precious.parquet"
    run(path, tiny_bundle, out)
    outside.write_text("precious")
    manifest = json.loads((out / "_manifest.json").read_text())
    listed = str(outside) if absolute else "../precious.parquet"
    manifest["parts"][listed] = manifest["parts"]["part-00000.parquet"]
    manifest["checksum"] = None  # as version 0.1.0 wrote it: the names alone give it away
    (out / "_manifest.json").write_text(json.dumps(manifest))
    before = {file: file.read_bytes() for file in out.iterdir()}

    with pytest.raises(ConfigError, match=r"_manifest\.json"):
        run(path, tiny_bundle, out, **{flag: True})

    assert outside.read_text() == "precious"
    assert {file: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
@pytest.mark.parametrize("name", ["part-00000.parquet", ".spill", ".lock", "_manifest.json"])
def test_nothing_is_written_or_removed_through_a_link_in_the_output(
    tiny_bundle: Bundle, tmp_path: Path, flag: str, name: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    run(path, tiny_bundle, out)
    if name == ".spill":
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("precious")
    elif (out / name).exists():
        (out / name).rename(elsewhere)
    else:
        elsewhere.write_text("precious")
    (out / name).symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ConfigError, match=rf"{name}: .*symbolic link"):
        run(path, tiny_bundle, out, **{flag: True})

    assert sorted(tmp_path.rglob("*")) == before


def test_the_manifest_is_not_written_through_a_link_with_its_unfinished_name(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    out, outside = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    outside.write_text("precious")
    (out / "._manifest.json.tmp").symlink_to(outside)
    with pytest.raises(ConfigError, match="symbolic link"):
        run(path, tiny_bundle, out, overwrite=True)
    (out / "._manifest.json.tmp").unlink()
    (out / "._manifest.json.tmp").write_text("{")  # of version 0.1.0, killed
    run(path, tiny_bundle, out, overwrite=True)
    assert outside.read_text() == "precious"
    assert sorted(file.name for file in out.iterdir()) == ["_manifest.json", "part-00000.parquet"]


def test_bad_input_loses_no_earlier_output(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    run(path, tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    empty = write_log(tmp_path / "empty.parquet", [])
    with pytest.raises(InputError, match=r"empty\.parquet: no usable row.*found no rows at all"):
        run(empty, tiny_bundle, tmp_path / "out", overwrite=True)
    nobody = tmp_path / "nobody.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), nobody)
    with pytest.raises(InputError, match=r"nobody\.parquet: no usable row in the sequences"):
        run(nobody, tiny_bundle, tmp_path / "out", overwrite=True)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def bad_items(path: Path, row_group: int = 0) -> None:
    """Spoil the pages of the items alone, behind a good footer and good users."""
    chunk = pq.ParquetFile(path).metadata.row_group(row_group).column(1)
    assert chunk.path_in_schema.startswith("item_ids")
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(content)


def bad_times(path: Path) -> None:
    """Give the last user one time too few."""
    table = pq.read_table(path)
    times = [[START] * len(items) for items in table["item_ids"].to_pylist()]
    times[-1].pop()
    pq.write_table(table.append_column("timestamps", [times]), path)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("spoil", [bad_items, bad_times])
def test_sequences_found_to_be_bad_late_touch_no_output(
    tiny_bundle: Bundle, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    (tmp_path / "in").mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        history = {f"{name}{user}": items for user, items in random_histories(30, seed).items()}
        last = write_sequences(tmp_path / "in" / f"{name}.parquet", history)
    run(tmp_path / "in", tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    spoil(last)

    with pytest.raises(InputError, match=r"b\.parquet"):
        run(tmp_path / "in", tiny_bundle, tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match=r"b\.parquet"):
        run(tmp_path / "in", tiny_bundle, tmp_path / "other")

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "other").exists()


def test_a_file_of_sequences_is_skipped_as_a_whole(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_sequences(tmp_path / "in" / "a.parquet", {"a": ["item1"]})
    # More than one batch of rows; the last ones' page is the bad one.
    many = {f"b{user}": ["item1"] for user in range(40_000)}
    path = write_sequences(tmp_path / "in" / "b.parquet", many)
    pq.write_table(pq.read_table(path), path, row_group_size=20_000)
    bad_items(path, row_group=1)

    result = run(tmp_path / "in", tiny_bundle, tmp_path / "out", skip_bad_files=True)
    assert result.skipped_files == (str(path),)
    assert set(rows(tmp_path / "out")) == {"a"}


@pytest.mark.usefixtures("small_parts")
def test_a_full_disk_is_reported_and_the_run_can_be_resumed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(40))
    original = Path.write_bytes
    written = 0

    def full(file: Path, content: bytes) -> int:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(28, "No space left on device")
        return original(file, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PublishError, match="No space left on device") as refusal:
        run(path, tiny_bundle, tmp_path / "out")
    assert refusal.value.exit_code == 1
    monkeypatch.undo()
    monkeypatch.setattr(scorer, "PART_USERS", 16)
    assert run(path, tiny_bundle, tmp_path / "out", resume=True).n_users == 40


@pytest.mark.parametrize("content", [b"", b"123", bytes(41 * 16 * 4 - 4), bytes(41 * 16 * 4 + 1)])
def test_an_item_table_of_the_wrong_size_is_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path, content: bytes
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    bundle.item_table.write_bytes(content)  # as if the checksum were of this one
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    with pytest.raises(BundleError, match=r"items\.bin: the item table does not fit the model"):
        run(path, bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()
