"""An ingest that is killed after its last commit: the run that follows has its counts."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import pipeline.runner.recorded_stages
from pipeline.config.settings import Settings
from pipeline.data import ingest_batches
from pipeline.results import Checked, Ingested
from pipeline.runner.nightly import forget_files, run_stage
from pipeline.runner.stages import CheckData, Ingest, Prepare
from tests.helpers.ingest_cases import NOON, TODAY, settings_in, versions, write_log

ROWS = [(1, "x", NOON), (1, "x", NOON), (2, None, NOON), (2, "y", NOON)]


@pytest.fixture(params=[100, 1], ids=["one batch", "a batch per file"])
def settings(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    monkeypatch.setattr(ingest_batches, "BATCH_ROWS", request.param)
    settings = settings_in(tmp_path)
    write_log(settings, "a.parquet", ROWS)
    write_log(settings, "b.parquet", [(3, "x", NOON)])
    return settings


@pytest.fixture
def killed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ingest without a record of it."""

    def kill() -> None:
        def dies(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pipeline.runner.recorded_stages, "write_record", dies)
            with pytest.raises(KeyboardInterrupt):
                run_stage(settings, TODAY, Ingest)

    return kill


def counts(result: Ingested) -> tuple[int, ...]:
    return result.files, result.rows, result.added, result.duplicates, result.quarantined


def test_its_counts_are_recorded_by_the_next(
    settings: Settings, killed: Callable[[], None]
) -> None:
    killed()
    before = versions(settings)
    record = run_stage(settings, TODAY, Ingest)
    assert counts(record.result) == (2, 5, 3, 1, 1)
    assert not record.reused
    assert record.result.quarantined_by_reason == {"null item_id": 1}
    assert versions(settings) == before
    assert run_stage(settings, TODAY, Ingest).result == record.result


def test_what_is_recorded_is_not_counted_again(settings: Settings) -> None:
    result = run_stage(settings, TODAY, Ingest).result
    assert counts(result) == (2, 5, 3, 1, 1)
    # The list of files is another one now, so that the stage is done again.
    (Path(settings.logs.path) / "b.parquet").unlink()
    assert counts(run_stage(settings, TODAY, Ingest).result) == (0, 0, 0, 0, 0)


def test_with_more_to_read_only_that_counts(settings: Settings, killed: Callable[[], None]) -> None:
    killed()
    write_log(settings, "c.parquet", [(4, "x", NOON)])
    assert counts(run_stage(settings, TODAY, Ingest).result) == (1, 1, 1, 0, 0)
    write_log(settings, "a.parquet", [*ROWS, (5, "x", NOON)])
    killed()
    assert counts(run_stage(settings, TODAY, Ingest).result) == (1, 5, 1, 3, 0)


def test_another_run_date_counts_its_own(settings: Settings, killed: Callable[[], None]) -> None:
    killed()
    result = run_stage(settings, TODAY + timedelta(days=1), Ingest).result
    assert counts(result) == (0, 0, 0, 0, 0)


def test_what_was_forgotten_is_not_withdrawn_by_the_next(settings: Settings) -> None:
    run_stage(settings, TODAY, Ingest)
    assert forget_files(settings, TODAY, "b.parquet").withdrawn == 1
    result = run_stage(settings, TODAY, Ingest).result
    assert (*counts(result), result.withdrawn) == (0, 0, 0, 0, 0, 0)


def test_the_checks_run_again_where_only_what_is_bad_has_changed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_log(settings, "a.parquet", [(user, "x", NOON) for user in range(4)])
    write_log(settings, "b.parquet", [(user, None, NOON) for user in range(6)])

    def check(settings: Settings) -> Checked:
        for stage in (Ingest, Prepare):
            run_stage(settings, TODAY, stage)
        return run_stage(settings, TODAY, CheckData).result

    assert "(6 null item_id): 0.6" in check(settings).held_by[0]
    assert check(settings_in(tmp_path, keep="item_id IS NOT NULL")).held_by == ()
    write_log(settings, "c.parquet", [(user, None, NOON) for user in range(6)])
    assert "16 rows read that are bad (12 null item_id)" in check(settings).held_by[0]
