"""The stages of a run, done one by one or found done: their records decide.

A stage is done when it is recorded for the run date with the same cache key, and what it made is
still there.
"""

import shutil
import time
from itertools import takewhile
from typing import Any

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, EmptyTestError, UnfitModelError
from pipeline.results import Unfit
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
from pipeline.runner.stages import STAGES
from pipeline.storage.locations import RunLocations


def do_stage(
    stage: type[Stage[Result]],
    settings: Settings,
    locations: RunLocations,
    done: RunResults,
    *,
    force: bool = False,
    force_publish: bool = False,
    whole_run: bool = False,
) -> StageRecord[Result]:
    """Do a stage, unless it is done already and not forced.

    That it leaves the run without a model of its own is recorded too, for the stages that follow
    it one by one; done again it is tried again.

    Args:
        stage: What to do.
        settings: Of the run.
        locations: Of the run.
        done: The records of the stages before it.
        force: Do it again, from the start.
        force_publish: Publish the run's own model in any case.
        whole_run: Whether all the later stages follow.

    Raises:
        FearecError: the stage failed.
    """
    with storage_failures(settings):
        given = stage.of(settings, locations, done)
        if force_publish:
            given = given.publish_forced()
        if force:
            given = given.forced()
        elif record := _recorded(given, locations):
            return record
        stage.check_settings(settings, locations, done, whole_run=whole_run)
        if force and (scratch := given.scratch()):
            shutil.rmtree(scratch, ignore_errors=True)
        key, path = cache_key(given), locations.record(stage.name)
        begun = time.perf_counter()
        try:
            result = given.run()
        except (UnfitModelError, EmptyTestError) as error:
            seconds, unfit = time.perf_counter() - begun, Unfit(str(error))
            write_record(path, StageRecord(stage.name, key, key, seconds, unfit))
            raise
        seconds = time.perf_counter() - begun
        record = StageRecord(stage.name, key, given.output_key(result), seconds, result)
        write_record(path, record)
        return record


def recorded_before(
    stage: type[Stage[Any]], settings: Settings, locations: RunLocations, *, needed_by: str
) -> RunResults:
    """The records of the stages before one.

    Raises:
        ConfigError: one of them is not done.
    """
    done = RunResults()
    for each in takewhile(lambda each: each is not stage, STAGES):
        if not each.is_needed(done):
            continue
        given = each.of(settings, locations, done)
        record = _recorded(given, locations)
        if record is None and (unfit := _unfit(given, locations)):
            done = done.without_model(f"{each.name}: {unfit}")
            continue
        if record is None:
            raise ConfigError(
                f"{needed_by} needs {each.name}, which is not done with these settings and inputs,"
                " or of which something is gone",
                f"run date {locations.run_date}",
                remedy=f"Run `fearec {each.name} --date {locations.run_date}` first, or give the"
                " --date and the settings of a run.",
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


def _unfit(given: Stage[Any], locations: RunLocations) -> str | None:
    """Why the run has no model of its own, if a stage found that."""
    record = read_record(locations.record(given.name), Unfit)
    if record is None or record.cache_key != cache_key(given):
        return None
    return record.result.reason
