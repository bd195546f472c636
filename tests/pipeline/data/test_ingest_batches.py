"""Ingest in batches: what a kill leaves, and that the counts are those of one ingest."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import pipeline.data.ingest
from pipeline.config.settings import Settings
from pipeline.data import ingest_batches
from pipeline.data.ingest_batches import in_batches
from pipeline.data.source_files import SourceFiles
from pipeline.errors import InputError
from pipeline.logs.log_content import read_footers
from pipeline.logs.log_files import list_log_files
from tests.helpers.ingest_cases import (
    NOON,
    TODAY,
    events_of,
    rows_of,
    settings_in,
    versions,
    write_log,
)
from tests.helpers.stages import ingest

SIZES = [3, 0, 2, 9, 0, 1, 5, 4]  # rows per file


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(ingest_batches, "BATCH_ROWS", 6)
    settings = settings_in(tmp_path)
    for number, size in enumerate(SIZES):
        # Some events are in two files that are in different batches, some rows are bad.
        items = [number // 2, number]
        rows = [(row % 5 or None, f"{items[row % 2]}", NOON) for row in range(size)]
        write_log(settings, f"{number}.parquet", rows)
    return settings


def test_batches_hold_as_many_rows_as_they_may_or_one_file(settings: Settings):
    batches = in_batches(read_footers(list_log_files(settings.logs.path)))
    assert [batch.rows for batch in batches] == [5, 9, 6, 4]
    assert [file.name for batch in batches for file in batch.files] == [
        f"{number}.parquet" for number in range(len(SIZES))
    ]
    assert [batch.is_last for batch in batches] == [False, False, False, True]
    (empty,) = in_batches({})
    assert empty.is_last


def test_the_counts_are_those_of_one_batch(settings: Settings, tmp_path: Path):
    result = ingest(settings, TODAY)
    assert result.interactions_version == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_batches, "BATCH_ROWS", 100)
        other = settings.model_copy(update={"warehouse": str(tmp_path / "other")})
        once = ingest(other, TODAY)
    same = {"interactions_id": "", "interactions_version": 0}
    assert replace(result, **same) == replace(once, **same)
    assert events_of(settings) == events_of(other)
    assert once.rows == sum(SIZES) == once.added + once.duplicates + once.quarantined
    before = versions(settings)
    assert ingest(settings, TODAY).files == 0
    assert versions(settings) == before


@pytest.mark.parametrize(
    "killed_at",  # of two commits per batch
    [2, pytest.param(3, marks=pytest.mark.slow), 5, pytest.param(8, marks=pytest.mark.slow)],
)
def test_a_killed_load_goes_on_after_its_last_batch(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, killed_at: int, tmp_path: Path
):
    commits: list[str] = []

    def counted(function: Any) -> Any:
        def committed(*arguments: Any, **named: Any) -> None:
            commits.append(function.__name__)
            if len(commits) == killed_at:
                raise KeyboardInterrupt
            function(*arguments, **named)

        return committed

    with monkeypatch.context() as patch:
        for holder, name in ((pipeline.data.ingest, "append"), (SourceFiles, "write_entries")):
            patch.setattr(holder, name, counted(getattr(holder, name)))
        with pytest.raises(KeyboardInterrupt):
            ingest(settings, TODAY)
    noted = [row["source_file"] for row in rows_of(settings, "log_files")]
    assert len(noted) == [0, 3, 5, 7][commits.count("write_entries") - (commits[-1] != "append")]
    result = ingest(settings, TODAY)
    whole = settings.model_copy(update={"warehouse": str(tmp_path / "other")})
    same = {"interactions_id": "", "interactions_version": 0}
    assert replace(result, **same) == replace(ingest(whole, TODAY), **same)
    assert events_of(settings) == events_of(whole)
    assert ingest(settings, TODAY).rows == 0


def test_bad_rows_alone_end_no_load_before_its_last_batch(settings: Settings):
    late = NOON + timedelta(days=1)
    for number in range(len(SIZES)):
        write_log(settings, f"{number}.parquet", [(1, "x", late)] * 4)
    with pytest.raises(InputError, match="no good row"):
        ingest(settings, TODAY)
    write_log(settings, "z.parquet", [(1, "x", NOON)])
    assert ingest(settings, TODAY).added == 1
    assert ingest(settings, TODAY + timedelta(days=1)).added == 1
    assert ingest(settings, TODAY + timedelta(days=1)).files == 0
