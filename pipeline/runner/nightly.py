"""A night: every stage in order; what is done already is not done again.

A stage is done when it is recorded for the run date with the same settings and inputs, and what
it made is still there. Each stage can be repeated, so a night killed at any moment is mended by
running it again.
"""

import inspect
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.bundles.transfer import opened_bundle
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.logs.log_files import list_log_files
from pipeline.publishing.publish import refuse_other_layout
from pipeline.runner.cache import Record, fingerprint, night_folder, read_record, write_record
from pipeline.runner.failures import told_in_one_line
from pipeline.runner.run_log import record_run
from pipeline.runner.stages import STAGES, Stage, refuse_unscorable
from pipeline.storage.locks import exclusive_lock
from pipeline.warehouse.tables import models

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import Evaluated

_BY_NAME = {stage.name: stage for stage in STAGES}


class Call(Protocol):
    """How a stage is executed: directly, or as a task of a scheduler."""

    def __call__(
        self, name: str, function: Callable[..., Record[Any]], /, *args: Any
    ) -> Record[Any]:
        """Call the function, under the stage's name."""


def call_directly(name: str, function: Callable[..., Record[Any]], /, *args: Any) -> Record[Any]:
    """The plainest `Call`."""
    return function(*args)


@dataclass(frozen=True)
class NightResult:
    """What a night did.

    Attributes:
        run_date: Of the night.
        stages: The record of each stage by its name, in order.
    """

    run_date: date
    stages: Mapping[str, Record[Any]]

    @property
    def headline(self) -> tuple[str, float, float]:
        """NDCG@10 (or at the smallest k asked for), the model's and popularity's."""
        evaluated: Evaluated = self.stages["evaluate"].result
        name = min(
            (k for k in evaluated.model if k.startswith("NDCG")), key=lambda k: k != "NDCG@10"
        )
        return name, evaluated.model[name], evaluated.popularity[name]


def nightly(
    settings: Settings, run_date: date, *, force: bool = False, call: Call = call_directly
) -> NightResult:
    """Run every stage that is not done for the run date.

    Args:
        settings: Of the run.
        run_date: Logs up to the end of this day count, and rows are published under it.
        force: Do every stage again.
        call: How each stage is executed.

    Raises:
        ConfigError: what the night would come to could not be scored or published.
        BusyError: another run is at work on the same night.
        FearecError: a stage failed; those before it stay done.
    """
    started_at = datetime.now(UTC)
    done: dict[str, Record[Any]] = {}
    with told_in_one_line(settings):
        _refuse_absent(settings)
        refuse_other_layout(settings)
        with _alone(settings, run_date):
            for stage in STAGES:
                if stage.name == "train":
                    refuse_unscorable(settings, done["prepare"].result)
                needs = [done[name] for name in stage.needs]
                done[stage.name] = call(
                    stage.name, do_stage, settings, run_date, stage.name, needs, force
                )
            record_run(settings, run_date, started_at, done)
    return NightResult(run_date, done)


def run_stage(settings: Settings, run_date: date, name: str, *, force: bool = False) -> Record[Any]:
    """Run one stage on what the stages before it have recorded.

    Raises:
        ConfigError: a stage before it is not done.
        BusyError: another run is at work on the same night.
        FearecError: the stage failed.
    """
    with told_in_one_line(settings):
        _refuse_absent(settings)
        with _alone(settings, run_date):
            done = _done_before(settings, run_date, name, by=name)
            needs = [done[need] for need in _BY_NAME[name].needs]
            return do_stage(settings, run_date, name, needs, force)


def evaluate_bundle_of(settings: Settings, run_date: date, bundle: str | Path) -> "Evaluated":
    """Measure any bundle on a night's prepared events; nothing is recorded.

    Raises:
        ConfigError: the night's events are not prepared with these settings.
        BusyError: another run is at work on the same night.
        FearecError: the bundle cannot be read or measured.
    """
    from pipeline.evaluation.evaluate_bundle import evaluate_bundle

    with told_in_one_line(settings), _alone(settings, run_date):
        prepared = _done_before(settings, run_date, "train", by="evaluate")["prepare"].result
        with opened_bundle(bundle) as opened:
            return evaluate_bundle(settings, run_date, prepared, opened)


def do_stage(
    settings: Settings, run_date: date, name: str, needs: list[Record[Any]], force: bool
) -> Record[Any]:
    """Do a stage, unless it is done already and not forced.

    Args:
        settings: Of the run.
        run_date: The night it belongs to.
        name: The stage's name.
        needs: The records of the stages it needs, in its order.
        force: Do it again, from the start.

    Raises:
        FearecError: the stage failed.
    """
    stage = _BY_NAME[name]
    with told_in_one_line(settings):
        # Taken before the stage runs: a file that arrives meanwhile makes it run again next time.
        identity = _identity(settings, stage, needs)
        if not force:
            record = _recorded(settings, run_date, stage, identity)
            if record:
                return record
        elif stage.scratch:
            shutil.rmtree(night_folder(settings, run_date) / stage.scratch, ignore_errors=True)
        begun = time.perf_counter()
        result = resolve_name(stage.function)(settings, run_date, *(need.result for need in needs))
        record = Record(stage.name, identity, time.perf_counter() - begun, result)
        write_record(settings, run_date, record)
        return record


def _refuse_absent(settings: Settings) -> None:
    """Before anything is written: the logs are there, and the warehouse's store answers."""
    list_log_files(settings.logs.path)
    models(settings).names()  # Arrow gives up in seconds, delta-rs in minutes


def _alone(settings: Settings, run_date: date) -> AbstractContextManager[None]:
    """Hold the night's lock."""
    folder = night_folder(settings, run_date)
    return exclusive_lock(folder / ".lock", "another run is at work on this night", folder)


def _done_before(
    settings: Settings, run_date: date, name: str, *, by: str
) -> dict[str, Record[Any]]:
    """The records of the stages before one, needed by the stage that is asked for."""
    done: dict[str, Record[Any]] = {}
    for stage in takewhile(lambda stage: stage.name != name, STAGES):
        needs = [done[need] for need in stage.needs]
        done[stage.name] = _required(settings, run_date, stage, needs, by)
    return done


def _required(
    settings: Settings, run_date: date, stage: Stage, needs: list[Record[Any]], name: str
) -> Record[Any]:
    record = _recorded(settings, run_date, stage, _identity(settings, stage, needs))
    if record is None:
        raise ConfigError(
            f"{name} needs {stage.name}, which is not done with these settings and inputs",
            f"run date {run_date}",
            remedy=f"Run `fearec {stage.name} --date {run_date}` first.",
        )
    return record


def _identity(settings: Settings, stage: Stage, needs: list[Record[Any]]) -> str:
    read = {name: attrgetter(name)(settings) for name in stage.settings}
    before = [_BY_NAME[need.stage].identity(need) for need in needs]
    return fingerprint(stage.name, read, [before, stage.watches(settings)])


def _recorded(
    settings: Settings, run_date: date, stage: Stage, identity: str
) -> Record[Any] | None:
    result_type = inspect.signature(resolve_name(stage.function)).return_annotation
    record = read_record(settings, run_date, stage.name, result_type)
    if record and record.fingerprint == identity and stage.intact(settings, record.result):
        return record
    return None
