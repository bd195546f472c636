"""Forgotten log files: their rows leave the tables, and stay out until the files change."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline.data.ingest
from flows.cli.main import app
from pipeline.config.settings import Settings
from pipeline.data.source_files import SourceFiles
from pipeline.errors import InputError
from pipeline.results import Forgotten
from tests.helpers.ingest_cases import (
    NOON,
    TODAY,
    events_of,
    rows_of,
    settings_in,
    versions,
    write_log,
)
from tests.helpers.stages import forget, ingest

DAY = timedelta(days=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.mark.parametrize("by", ["name", "path", "glob", "folder", "link", "dots", "glob by link"])
def test_its_rows_leave_the_tables_and_stay_out(settings: Settings, by: str):
    path = write_log(settings, "dt=1/a.parquet", [(1, "x", NOON), (1, "y", NOON), (1, None, NOON)])
    write_log(settings, "dt=2/b.parquet", [(1, "x", NOON), (2, "z", NOON), (None, "z", NOON)])
    ingest(settings, TODAY)
    link = Path(settings.warehouse).with_name("link")
    link.symlink_to(path.parent)
    patterns = {
        "link": f"{link}/a.parquet",
        "dots": f"{path.parent}/../dt=1/a.parquet",
        "glob by link": f"{link}/*.parquet",
        "name": "dt=1/a.parquet",
        "path": str(path),
        "glob": f"{path.parent.parent}/*=1/*.parquet",
        "folder": "dt=1",
    }
    result = forget(settings, TODAY, patterns[by])
    assert result == Forgotten(("dt=1/a.parquet",), 2, 1, 1, (str(path),))
    left = [(1, "x", NOON), (2, "z", NOON)]
    assert events_of(settings) == left
    assert {row["source_file"] for row in rows_of(settings, "interactions")} == {"dt=2/b.parquet"}
    assert [row["reason"] for row in rows_of(settings, "quarantine")] == ["null user_id"]
    before = versions(settings)
    assert ingest(settings, TODAY + DAY).files == 0
    assert versions(settings) == before
    again = forget(settings, TODAY, patterns[by])
    assert (again.rows, again.withdrawn, again.quarantined) == (0, 0, 0)
    assert events_of(settings) == left


@pytest.mark.parametrize("how", ["changed", "forced"])
def test_it_is_read_again_when_it_changes_or_all_files_are(settings: Settings, how: str):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    write_log(settings, "b.parquet", [(2, "z", NOON)])
    ingest(settings, TODAY)
    forget(settings, TODAY, "a.parquet")
    if how == "changed":
        write_log(settings, "a.parquet", [(1, "x", NOON), (1, "y", NOON)])
    result = ingest(settings, TODAY, force=how == "forced")
    assert (result.added, (1, "x", NOON) in events_of(settings)) == (1 + (how == "changed"), True)
    assert ingest(settings, TODAY).files == 0


def test_other_reading_settings_do_not_bring_it_back(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    write_log(settings, "b.parquet", [(2, "z", NOON)])
    ingest(settings, TODAY)
    forget(settings, TODAY, "a.parquet")
    logs = settings.logs.model_copy(update={"timestamp_unit": "ms"})
    assert ingest(settings.model_copy(update={"logs": logs}), TODAY).files == 1
    assert events_of(settings) == [(2, "z", NOON)]


def test_a_deleted_file_and_the_last_one_can_be_forgotten(settings: Settings):
    path = write_log(settings, "a.parquet", [(1, "x", NOON)])
    ingest(settings, TODAY)
    path.unlink()
    write_log(settings, "b.parquet", [])
    result = forget(settings, TODAY, "*")
    assert (result.files, result.withdrawn, result.still_there) == (("a.parquet",), 1, ())
    assert events_of(settings) == []


def test_a_pattern_that_matches_no_known_file_is_refused(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "unknown.parquet", [(1, "x", NOON)])
    before = versions(settings)
    for pattern in ("unknown.parquet", "a", "b*", "*/a.parquet", ""):
        with pytest.raises(InputError, match="no known log file matches"):
            forget(settings, TODAY, pattern)
    assert versions(settings) == before


@pytest.mark.parametrize("killed_before", ["stage", "replace_where", "write_entries"])
def test_killed_in_between_the_next_ingest_completes_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, killed_before: str
):
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, None, NOON)])
    write_log(settings, "b.parquet", [(2, "z", NOON)])
    ingest(settings, TODAY)
    holder: Any = pipeline.data.ingest
    if killed_before == "write_entries":
        holder = SourceFiles

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(holder, killed_before, dies)
        with pytest.raises(KeyboardInterrupt):
            forget(settings, TODAY, "a.parquet")
    ingest(settings, TODAY)
    assert events_of(settings) == [(2, "z", NOON)]
    assert rows_of(settings, "quarantine") == []
    before = versions(settings)
    ingest(settings, TODAY)
    assert versions(settings) == before


def test_the_command_says_what_it_withdrew(settings: Settings, tmp_path: Path):
    path = write_log(settings, "a.parquet", [(1, "x", NOON), (2, "y", NOON)])
    write_log(settings, "b.parquet", [(2, "y", NOON)])
    flags = ["--date", str(TODAY), "--set", f"logs.path={settings.logs.path}"]
    flags += ["--set", f"warehouse={settings.warehouse}", "--set", f"work_dir={settings.work_dir}"]
    runner = CliRunner()
    assert runner.invoke(app, ["ingest", *flags]).exit_code == 0
    done = runner.invoke(app, ["ingest", *flags, "--forget", "a.*"])
    assert done.stdout.splitlines() == [
        "forgotten: a.parquet",
        "withdrawn: 1 events, 0 quarantined rows",
        "kept: 1 events that other files have too",
        f"still there: {path}; it is read again when it changes, or by `fearec ingest --force`",
    ]
    # The run date's ingest is not done any more: what follows takes the table as it is now.
    done = runner.invoke(app, ["ingest", *flags, "--json"])
    assert json.loads(done.stdout)["reused"] is False
    done = runner.invoke(app, ["ingest", *flags, "--forget", "b.parquet", "--json"])
    assert json.loads(done.stdout)["withdrawn"] == 1
    refused = runner.invoke(app, ["ingest", *flags, "--forget", "c"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
