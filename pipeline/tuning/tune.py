"""Tune: search for hyper-parameters by validation alone, and write the best as settings.

A search killed at any moment is resumed by running it again; finished trials are not repeated.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from model.cores import thread_count
from model.training.threads import set_threads
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.errors import FearecError, SearchError, naming
from pipeline.evaluation.evaluate import evaluate
from pipeline.results import Evaluated, Prepared, Trained
from pipeline.runner.failures import storage_failures
from pipeline.runner.nightly import run_stage
from pipeline.runner.stages import Ingest, Prepare
from pipeline.tuning.outputs import (
    DATA,
    RUNS,
    check_folder,
    clear,
    lock_search,
    parameters_of,
    write_plots,
    write_settings,
    write_trials,
)
from pipeline.tuning.params_file import read_space, values_of, with_values
from pipeline.tuning.search_space import Space, describe
from pipeline.tuning.study import (
    EPOCH,
    ERROR,
    check_resume_key,
    fill_queue,
    last_attempts,
    load_study,
    original_number,
    requeue_interrupted,
    study_errors,
    trials_wanted,
)
from pipeline.tuning.trial import Pruning, Run, known_to_training, train_apart, train_here

logger = logging.getLogger(__name__)

# Trials done, all trials, and the best NDCG@10 so far.
Progress = Callable[[int, int, float | None], None]

# Training settings of a nightly run that no trial depends on.
_NOT_OF_TRIALS = {"refit", "warm_start", "devices", "threads", "strategy", "logger"}


class _FailedError(Exception):
    """A trial failed; the error is stored with it and the search goes on."""


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        trials: Parquet file with one row per trial.
        plots: HTML page.
        settings: TOML file: the settings of the search with the best hyper-parameters.
        n_complete: Trials trained to their end.
        n_pruned: Trials ended early.
        n_failed: Trials that failed.
        best: Number of the best trial.
        parameters: Hyper-parameters of the best trial.
        valid_ndcg_at_10: NDCG@10 of the best trial on validation, by which it was selected.
        test: Metrics of the best trial on the test set, by which nothing was selected.
    """

    trials: Path
    plots: Path
    settings: Path
    n_complete: int
    n_pruned: int
    n_failed: int
    best: int
    parameters: dict[str, Any]
    valid_ndcg_at_10: float
    test: Evaluated


def tune(
    settings: Settings,
    run_date: date,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Search on the data of one run date, which are ingested and prepared first.

    Every trial starts from random weights and never sees the test set; the best trial is evaluated
    on the test set once, at the end.

    Args:
        settings: Settings of the run; `settings.tune` holds those of the search.
        run_date: Logs up to the end of this day are used.
        overwrite: Remove an earlier search in the output folder and begin again.
        progress: Called at the start and whenever a trial has ended.

    Raises:
        ConfigError: the params file or the output folder cannot be used.
        ResumeError: the folder holds another search.
        BusyError: another process is at work on the same search or run.
        InputError: there is nothing to train or validate on.
        SearchError: no trial was completed.
        FearecError: see the stages `ingest` and `prepare`.
    """
    tune = settings.tune
    space = read_space(tune.params_file, settings)
    wanted = trials_wanted(space, tune)
    with storage_failures(settings):
        check_folder(tune.out)
        run_stage(settings, run_date, Ingest)
        prepared = run_stage(settings, run_date, Prepare).result
        with naming(tune.out), lock_search(tune.out), study_errors(tune.out):
            if overwrite:
                clear(tune.out)
            study = load_study(tune.out, settings)
            check_resume_key(study, tune.out, _resume_key(settings, run_date, space, prepared))
            requeue_interrupted(study)
            # A copy, since a nightly run may prepare other data meanwhile.
            data = tune.out / DATA
            shutil.copytree(prepared.folder, data, dirs_exist_ok=True)
            search = _Search(settings, run_date, replace(prepared, folder=data), space)
            known_to_training(settings, run_date, search.prepared)  # check before any trial
            search.run(study, fill_queue(study, space, settings, wanted), wanted, progress)
            return search.conclude(study)


@dataclass(frozen=True)
class _Search:
    settings: Settings
    run_date: date
    prepared: Prepared
    space: Space

    @property
    def out(self) -> Path:
        return self.settings.tune.out

    def folder(self, trial: FrozenTrial) -> Path:
        """The folder of a trial's checkpoints, shared by all its attempts."""
        return self.out / RUNS / f"{original_number(trial):05d}"

    def run(
        self, study: optuna.Study, lacking: int, wanted: int, progress: Progress | None
    ) -> None:
        """Run the queued trials."""

        def ended(study: optuna.Study, _: FrozenTrial) -> None:
            self._tidy(study)
            if progress:
                progress(*_so_far(study, wanted))

        if progress:
            progress(*_so_far(study, wanted))
        if lacking:
            workers = min(self.settings.tune.workers, lacking)
            stops: list[Exception] = []
            objective = partial(self._objective, workers=workers, stops=stops)
            study.optimize(
                objective, lacking, n_jobs=workers, catch=(_FailedError,), callbacks=[ended]
            )
            if stops:
                raise stops[0]  # Optuna may drop it if there are several workers
        finished = sum(trial.state.is_finished() for trial in last_attempts(study))
        if finished < wanted:
            raise SearchError(
                "the search was interrupted",
                str(self.out),
                expected=f"{wanted} trials",
                found=f"{finished}",
                remedy="Run the same command to go on.",
            )

    def _objective(self, trial: optuna.Trial, workers: int, stops: list[Exception]) -> float:
        try:
            settings = with_values(self.settings, self.space.suggest(trial))
            frozen = trial.study.get_trials(deepcopy=False)[trial.number]
            threads = thread_count(set_threads(settings.train.threads), workers)
            run = Run(settings, self.run_date, self.prepared, self.folder(frozen), threads)
            if workers == 1:
                judged = train_here(run, Pruning(trial, settings.train.epochs))
            else:
                judged = train_apart(run, self.out, trial)
        except optuna.TrialPruned:
            raise
        except (OSError, SQLAlchemyError) as error:
            stops.append(error)
            raise  # a full disk is not the fault of the trial
        except Exception as error:
            message = (
                str(error) if isinstance(error, FearecError) else f"{type(error).__name__}: {error}"
            )
            trial.set_user_attr(ERROR, " ".join(message.split()))
            logger.warning("Trial %d failed: %s", trial.number, message)
            raise _FailedError from error
        trial.set_user_attr(EPOCH, judged.epoch)
        return judged.valid_ndcg_at_10

    def _tidy(self, study: optuna.Study) -> None:
        """Remove the checkpoints of all finished trials but the best."""
        finished = [trial for trial in last_attempts(study) if trial.state.is_finished()]
        best = _best(finished)
        for trial in finished:
            if trial != best:
                shutil.rmtree(self.folder(trial), ignore_errors=True)

    def conclude(self, study: optuna.Study) -> Tuned:
        """Evaluate the best trial on the test set, and write the outputs of the search."""
        trials = [trial for trial in last_attempts(study) if trial.state.is_finished()]
        best = _best(trials)
        if best is None or best.value is None:
            errors = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
            raise SearchError(
                "no trial was completed", str(self.out), found=errors[0] if errors else ""
            )
        settings = with_values(self.settings, parameters_of(best, self.space))
        epoch = best.user_attrs[EPOCH]
        weights = Trained(self.folder(best), epoch, best.value, parent=None, refit=False)
        states = [trial.state for trial in trials]
        return Tuned(
            trials=write_trials(self.out, trials, self.space),
            plots=write_plots(self.out, study),
            settings=write_settings(self.out, settings, len(trials), best),
            n_complete=states.count(TrialState.COMPLETE),
            n_pruned=states.count(TrialState.PRUNED),
            n_failed=states.count(TrialState.FAIL),
            best=original_number(best),
            parameters=values_of(settings, self.space.parameters),
            valid_ndcg_at_10=best.value,
            test=evaluate(
                self.prepared,
                weights,
                settings.model,
                settings.train,
                settings.evaluate,
                held_out_events(settings, self.run_date),
                settings.prepare,
                settings.event_types.inputs,
                champion=None,
            ),
        )


def _best(trials: list[FrozenTrial]) -> FrozenTrial | None:
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return max(complete, key=lambda t: (t.value, -original_number(t)), default=None)


def _so_far(study: optuna.Study, wanted: int) -> tuple[int, int, float | None]:
    finished = [trial for trial in last_attempts(study) if trial.state.is_finished()]
    best = _best(finished)
    return min(len(finished), wanted), wanted, best.value if best else None


def _resume_key(
    settings: Settings, run_date: date, space: Space, prepared: Prepared
) -> dict[str, Any]:
    """Everything that decides the trials and their results, by name."""
    sections = {
        "model": settings.model.config(prepared.n_items).model_dump(mode="json"),
        "train": settings.train.model_dump(mode="json", exclude=_NOT_OF_TRIALS),
    }
    evaluation = settings.evaluate
    return {
        "the data": prepared.content_hash,
        "tune.algo": settings.tune.algo,
        "tune.prune": settings.tune.prune,
        "evaluate.mask_seen": evaluation.mask_seen,
        "evaluate.split": [
            *evaluation.held_out_for(settings.event_types.targets),
            *([run_date] if evaluation.split == "time" else []),
        ],
        "event_types": settings.event_types.model_dump(mode="json"),
        **{f"the params file's {name}": describe(each) for name, each in space.parameters.items()},
        **{
            f"{section}.{name}": value
            for section, values in sections.items()
            for name, value in values.items()
            if name not in space.parameters
        },
    }
