"""A run: every stage in order; what is done already is not done again.

Each stage can be repeated, so a run killed at any moment is completed by running it again.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pipeline.bundles.registry import champion_before
from pipeline.bundles.transfer import opened_bundle
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.errors import EmptyTestError, FearecError, GateError, UnfitModelError
from pipeline.publishing.publish import check_layout
from pipeline.reporting.report import Report, index_of_run, page_of_run, write_report
from pipeline.results import Evaluated, Forgotten
from pipeline.runner.cache import Result, RunResults, Stage, StageRecord
from pipeline.runner.clean import clean_after_run
from pipeline.runner.failures import storage_failures
from pipeline.runner.model_tracking import track_run
from pipeline.runner.recorded_stages import do_stage, recorded_before
from pipeline.runner.run_checks import check_registry, check_settings_of_run
from pipeline.runner.run_log import record_failure, record_run
from pipeline.runner.stages import STAGES, CheckData, Ingest, Prepare, Train
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.log_table import list_logs
from pipeline.warehouse.runs import has_runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A run whose stages are all done: the record of each that it had, and its report, if any."""

    run_date: date
    results: RunResults
    report: Report | None = None


@dataclass
class OpenRun:
    """A run at work, which holds its run date. Get one with `open_run`.

    Attributes:
        settings: Of the run.
        locations: Where it reads and writes.
        force: Whether every stage is done again.
        force_publish: Whether its own model is published in any case.
        started_at: When it began.
        results: The records of the stages so far.
    """

    settings: Settings
    locations: RunLocations
    force: bool
    force_publish: bool
    started_at: datetime
    results: RunResults = field(default_factory=RunResults)

    def do(self, stage: type[Stage[Result]]) -> StageRecord[Result] | None:
        """Do the next stage, unless it is done already.

        Returns:
            Its record; None where the run does not have the stage, because nothing is to be
            trained, or because the model turned out unfit or cannot be measured: the run goes on
            with the champion.

        Raises:
            FearecError: the stage failed.
        """
        if not stage.is_needed(self.results):
            return None
        given = self.settings, self.locations, self.results
        try:
            record = do_stage(
                stage, *given, force=self.force, force_publish=self.force_publish, whole_run=True
            )
        except (UnfitModelError, EmptyTestError) as error:
            if isinstance(error, EmptyTestError) and champion_before(self.locations) is None:
                raise
            logger.warning("%s: %s", stage.name, error)
            self.results = self.results.without_model(f"{stage.name}: {error}")
            return None
        self.results = self.results.with_record(record)
        return record

    def finish(self) -> FinishedRun:
        """Record the run, whose stages are all done, report it, and clean up."""
        with storage_failures(self.settings):
            record_run(self.locations, self.started_at, self.results)
        track_run(self.settings.registry, self.locations, self.results)
        page = page_of_run(self.settings, self.locations.run_date)
        clean_after_run(self.settings, self.locations, self.results.get(Train))
        index = index_of_run(self.settings)  # once, so after old pages are gone
        report = Report(page, index) if page and index else None
        return FinishedRun(self.locations.run_date, self.results, report)


def nightly(
    settings: Settings, run_date: date, *, force: bool = False, force_publish: bool = False
) -> FinishedRun:
    """Run every stage that is not done for the run date.

    Args:
        settings: Of the run.
        run_date: Logs up to the end of this day count, and rows are published under it.
        force: Do every stage again.
        force_publish: Publish the run's own model, whatever the checks and the gate say.

    Raises:
        ConfigError: the run's result could not be scored or published.
        BusyError: another run works on the same run date.
        GateError: the run is held, and there is no champion to serve.
        FearecError: a stage failed; those before it stay done.
    """
    with open_run(settings, run_date, force=force, force_publish=force_publish) as run:
        for stage in STAGES:
            run.do(stage)
        return run.finish()


def run_stage(
    settings: Settings, run_date: date, stage: type[Stage[Result]], *, force: bool = False
) -> StageRecord[Result]:
    """Run one stage on the recorded results of the stages before it.

    Raises:
        ConfigError: a stage before it is not done.
        BusyError: another run works on the same run date.
        GateError: the run is held, and does not have the stage.
        FearecError: the stage failed.
    """
    with _locked(settings, run_date) as locations:
        done = recorded_before(stage, settings, locations, needed_by=stage.name)
        if not stage.is_needed(done):
            raise GateError(
                "the run is held, and trains no model",
                f"run date {run_date}",
                found=done.unfit or "; ".join(done[CheckData].result.held_by),
                remedy="Run `fearec gate`, `score` and `publish` to serve the champion.",
            )
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
        done = recorded_before(CheckData, settings, locations, needed_by="evaluate")
        return evaluate_bundle(
            opened,
            done[Prepare].result,
            settings.train,
            settings.evaluate,
            held_out_events(settings, run_date),
            settings.score.provider,
        )


def forget_files(settings: Settings, run_date: date, pattern: str) -> Forgotten:
    """Withdraw the rows of log files; ingest and what follows it is not done any more.

    Args:
        settings: Of the run.
        run_date: Whose lock is held; quarantined rows up to it are released.
        pattern: A path or glob of files that were ingested.

    Raises:
        InputError: it matches no such file.
        BusyError: another run works on the same run date.
        StorageError: a table cannot be read or written.
    """
    from pipeline.data.forget import forget

    with _locked(settings, run_date) as locations:
        files = list_logs(settings.logs.path)
        # First: should this be killed, the next run ingests, and completes it.
        locations.record(Ingest.name).unlink(missing_ok=True)
        return forget(files, settings.logs, locations, settings.time_zone, pattern)


@contextmanager
def open_run(
    settings: Settings,
    run_date: date,
    *,
    first: type[Stage[Any]] = STAGES[0],
    force: bool = False,
    force_publish: bool = False,
) -> Iterator[OpenRun]:
    """Hold a run date for a run, after a check of what it would fail on.

    A run that fails is recorded so, one without logs too, unless it is the first of its warehouse.
    It begins at `first`, on the recorded results of the stages before; the other arguments are
    those of `nightly`.

    Raises:
        ConfigError: the table has another layout, or a stage before `first` is not done.
        InputError: there are no logs.
        BusyError: another run works on the same run date.
        StorageError: anything about files or tables failed, inside too.
    """
    with _locked(settings, run_date, is_run=True) as locations:
        check_layout(settings.score.layout, locations)
        run = OpenRun(settings, locations, force, force_publish, datetime.now(UTC))
        try:
            list_logs(settings.logs.path)
            run.results = recorded_before(first, settings, locations, needed_by=first.name)
            yield run
        except FearecError as error:
            with suppress(Exception):  # what fails here too would hide the error
                record_failure(locations, run.started_at, run.results, error)
                logger.info("report: %s", write_report(settings, run_date).page)
            raise


@contextmanager
def _locked(settings: Settings, run_date: date, *, is_run: bool = False) -> Iterator[RunLocations]:
    """Hold a run date's lock, once the warehouse's store answered and the logs were found.

    Args:
        settings: Of the run.
        run_date: To be held.
        is_run: Whether the caller records failures and so looks for the logs itself. In a warehouse
            without a run they are looked for here: a mistaken path makes no new warehouse.
    """
    locations = RunLocations.of(settings, run_date)
    with storage_failures(settings):
        check_settings_of_run(settings, run_date)
        locations.warehouse.models().names()  # Arrow gives up in seconds, delta-rs in minutes
        if not (is_run and has_runs(locations.warehouse)):
            list_logs(settings.logs.path)
        with locations.held():
            check_registry(locations)
            yield locations
