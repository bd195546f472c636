"""A run: every stage in order; what is done already is not done again.

A stage is done when it is recorded for the run date with the same cache key, and what it made is
still there. Each stage can be repeated, so a run killed at any moment is completed by running it
again.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from pipeline.bundles.transfer import opened_bundle
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.errors import ConfigError
from pipeline.logs.log_files import list_log_files
from pipeline.publishing.publish import check_layout
from pipeline.results import Evaluated
from pipeline.runner.cache import (
    Result,
    RunResults,
    Stage,
    StageRecord,
    cache_key,
    read_record,
    write_record,
)
from pipeline.runner.failures import storage_failures
from pipeline.runner.run_log import record_run
from pipeline.runner.stages import STAGES, Prepare
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.locks import exclusive_lock


@dataclass(frozen=True)
class FinishedRun:
    """A run whose stages are all done.

    Attributes:
        run_date: Its run date.
        results: The record of each stage.
    """

    run_date: date
    results: RunResults


def nightly(settings: Settings, run_date: date, *, force: bool = False) -> FinishedRun:
    """Run every stage that is not done for the run date.

    Args:
        settings: Of the run.
        run_date: Logs up to the end of this day count, and rows are published under it.
        force: Do every stage again.

    Raises:
        ConfigError: the run's result could not be scored or published.
        BusyError: another run works on the same run date.
        FearecError: a stage failed; those before it stay done.
    """
    started_at, results = datetime.now(UTC), RunResults()
    with open_run(settings, run_date) as locations:
        for stage in STAGES:
            record = do_stage(stage, settings, locations, results, force=force, whole_run=True)
            results = results.with_record(record)
        record_run(locations, started_at, results)
    return FinishedRun(run_date, results)


def run_stage(
    settings: Settings, run_date: date, stage: type[Stage[Result]], *, force: bool = False
) -> StageRecord[Result]:
    """Run one stage on the recorded results of the stages before it.

    Raises:
        ConfigError: a stage before it is not done.
        BusyError: another run works on the same run date.
        FearecError: the stage failed.
    """
    with _locked(settings, run_date) as locations:
        done = _recorded_before(stage, settings, locations, needed_by=stage.name)
        return do_stage(stage, settings, locations, done, force=force)


def evaluate_bundle_of(settings: Settings, run_date: date, bundle: str | Path) -> Evaluated:
    """Measure any bundle on a run's prepared events; nothing is recorded.

    Raises:
        ConfigError: the run's events are not prepared with these settings.
        BusyError: another run works on the same run date.
        FearecError: the bundle cannot be read or measured.
    """
    from pipeline.evaluation.evaluate_bundle import evaluate_bundle

    with _locked(settings, run_date) as locations, opened_bundle(bundle) as opened:
        last = STAGES[STAGES.index(Prepare) + 1]
        done = _recorded_before(last, settings, locations, needed_by="evaluate")
        return evaluate_bundle(
            opened,
            done[Prepare].result,
            settings.train,
            settings.evaluate,
            held_out_events(settings.evaluate, run_date, settings.time_zone),
            settings.score.provider,
        )


@contextmanager
def open_run(settings: Settings, run_date: date) -> Iterator[RunLocations]:
    """Hold a run date for a run of all stages, after a check of what it would fail on.

    Raises:
        ConfigError: the table of recommendations has another layout.
        BusyError: another run works on the same run date.
        StorageError: anything about files or tables failed, inside too.
    """
    with _locked(settings, run_date) as locations:
        check_layout(settings.score.layout, locations)
        yield locations


def do_stage(
    stage: type[Stage[Result]],
    settings: Settings,
    locations: RunLocations,
    done: RunResults,
    *,
    force: bool = False,
    whole_run: bool = False,
) -> StageRecord[Result]:
    """Do a stage, unless it is done already and not forced.

    Args:
        stage: What to do.
        settings: Of the run.
        locations: Of the run.
        done: The records of the stages before it.
        force: Do it again, from the start.
        whole_run: Whether all the later stages follow.

    Raises:
        FearecError: the stage failed.
    """
    with storage_failures(settings):
        given = stage.of(settings, locations, done)
        if not force:
            record = _recorded(given, locations)
            if record:
                return record
        elif scratch := given.scratch():
            shutil.rmtree(scratch, ignore_errors=True)
        if force:
            given = given.forced()
        stage.check_settings(settings, done, whole_run=whole_run)
        begun = time.perf_counter()
        result = given.run()
        seconds = time.perf_counter() - begun
        record = StageRecord(
            stage.name, cache_key(given), given.output_key(result), seconds, result
        )
        write_record(locations.record(stage.name), record)
        return record


@contextmanager
def _locked(settings: Settings, run_date: date) -> Iterator[RunLocations]:
    """Hold a run date's lock, once the logs were found and the warehouse's store answered."""
    locations = RunLocations(Warehouse(settings.warehouse), settings.work_dir, run_date)
    with storage_failures(settings):
        list_log_files(settings.logs.path)
        locations.warehouse.models().names()  # Arrow gives up in seconds, delta-rs in minutes
        busy = "another run works on this run date"
        with exclusive_lock(locations.lock, busy, locations.folder):
            yield locations


def _recorded_before(
    stage: type[Stage[Any]], settings: Settings, locations: RunLocations, *, needed_by: str
) -> RunResults:
    """The records of the stages before one."""
    done = RunResults()
    for each in takewhile(lambda each: each is not stage, STAGES):
        record = _recorded(each.of(settings, locations, done), locations)
        if record is None:
            raise ConfigError(
                f"{needed_by} needs {each.name}, which is not done with these settings and inputs",
                f"run date {locations.run_date}",
                remedy=f"Run `fearec {each.name} --date {locations.run_date}` first.",
            )
        done = done.with_record(record)
    return done


def _recorded(given: Stage[Result], locations: RunLocations) -> StageRecord[Result] | None:
    record: StageRecord[Result] | None = read_record(
        locations.record(given.name), given.result_type
    )
    if record is None or record.cache_key != cache_key(given):
        return None
    # Of a damaged record the result does not fit its key.
    if record.output_key != given.output_key(record.result) or not given.is_intact(record.result):
        return None
    return record
