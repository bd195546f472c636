"""A search at work: its queued trials, trained here, in processes of their own, or on Ray."""

import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from model.cores import Threads, thread_count
from model.training.threads import set_threads
from pipeline.config.settings import Settings
from pipeline.errors import FearecError, SearchError
from pipeline.results import Prepared
from pipeline.tuning.outputs import RUNS
from pipeline.tuning.params_file import with_values
from pipeline.tuning.search_space import Space
from pipeline.tuning.study import EPOCH, ERROR, finished_trials, original_number
from pipeline.tuning.trial import Pruning, Run, TrialEndedError, end_trials, train_apart, train_here

logger = logging.getLogger(__name__)

_MOMENT = 1.0  # seconds

# Trials done, all trials, and the best NDCG@10 so far.
Progress = Callable[[int, int, float | None], None]


class _FailedError(Exception):
    """A trial failed; the error is stored with it and the search goes on."""


@dataclass(frozen=True)
class Search:
    """What a search is of.

    Attributes:
        settings: Settings of the run; `settings.tune` holds those of the search.
        run_date: Logs up to the end of this day are used.
        prepared: The search's own copy of the prepared data.
        space: What is searched.
    """

    settings: Settings
    run_date: date
    prepared: Prepared
    space: Space

    @property
    def out(self) -> Path:
        """The search's folder."""
        return self.settings.tune.out

    def folder(self, trial: FrozenTrial) -> Path:
        """The folder of a trial's checkpoints, shared by all its attempts."""
        return self.out / RUNS / f"{original_number(trial):05d}"

    def training(self, trial: optuna.Trial, threads: Threads) -> Run:
        """The training run of a trial that has begun.

        Raises:
            ConfigError: its values are not allowed together.
        """
        settings = with_values(self.settings, self.space.suggest(trial))
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        return Run(settings, self.run_date, self.prepared, self.folder(frozen), threads)

    def run(
        self, study: optuna.Study, lacking: int, wanted: int, progress: Progress | None
    ) -> None:
        """Run the queued trials.

        Args:
            study: The study.
            lacking: How many trials are still to run.
            wanted: How many there are to be.
            progress: Called at the start and whenever a trial has ended.

        Raises:
            SearchError: not all were run.
        """

        def ended(*_: object) -> None:
            self._tidy(study)
            if progress:
                progress(*_so_far(study, wanted))

        if progress:
            progress(*_so_far(study, wanted))
        if lacking and self.settings.engine.kind == "ray":
            from pipeline.tuning.ray_trials import run_on_ray

            run_on_ray(self, study, lacking, ended)
        elif lacking:
            self._optimize(study, lacking, ended)
        finished = len(finished_trials(study))
        if finished < wanted:
            raise SearchError(
                "the search was interrupted",
                str(self.out),
                expected=f"{wanted} trials",
                found=f"{finished}",
                remedy="Run the same command to go on.",
            )

    def _optimize(self, study: optuna.Study, lacking: int, ended: Callable[..., None]) -> None:
        """Run the queued trials on this machine, by one worker or several.

        Optuna waits for several in another thread, so that this one may end them: what Ctrl-C and
        SIGTERM raise in it would else wait for the trials that run.
        """
        workers = min(self.settings.tune.workers, lacking)
        stops: list[Exception] = []
        interrupted = threading.Event()
        objective = partial(self._objective, workers=workers, stops=stops, interrupted=interrupted)
        optimize = partial(
            study.optimize,
            objective,
            lacking,
            n_jobs=workers,
            catch=(_FailedError,),
            callbacks=[ended],
        )
        if workers == 1:
            optimize()
        else:
            with ThreadPoolExecutor(1) as thread:
                optimized = thread.submit(optimize)
                try:
                    optimized.result()
                except BaseException:
                    interrupted.set()
                    end_trials(until=optimized)
                    raise
        if stops:
            raise stops[0]  # Optuna may drop it if there are several workers

    def _objective(
        self,
        trial: optuna.Trial,
        workers: int,
        stops: list[Exception],
        interrupted: threading.Event,
    ) -> float:
        if interrupted.is_set():
            raise InterruptedError
        try:
            threads = thread_count(set_threads(self.settings.train.threads), workers)
            run = self.training(trial, threads)
            if workers == 1:
                judged = train_here(run, Pruning(trial, run.settings.train.epochs))
            else:
                judged = train_apart(run, self.out, trial)
        except optuna.TrialPruned:
            raise
        except (OSError, SQLAlchemyError) as error:
            stops.append(error)
            raise  # a full disk is not the fault of the trial
        except Exception as error:
            # SIGTERM to all processes of a group may reach a trial's before this one.
            ended = isinstance(error, BrokenProcessPool | TrialEndedError)
            if interrupted.wait(_MOMENT if ended else 0):
                raise
            note_failure(trial, as_line(error))
            raise _FailedError from error
        trial.set_user_attr(EPOCH, judged.epoch)
        return judged.valid_ndcg_at_10

    def _tidy(self, study: optuna.Study) -> None:
        """Remove the checkpoints of all finished trials but the best."""
        finished = finished_trials(study)
        best = best_of(finished)
        for trial in finished:
            if trial != best:
                shutil.rmtree(self.folder(trial), ignore_errors=True)


def as_line(error: Exception) -> str:
    """What a trial failed of, in one line."""
    name = "" if isinstance(error, FearecError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split())


def note_failure(trial: optuna.Trial, line: str) -> None:
    """Store what a trial failed of, so that it counts as finished."""
    trial.set_user_attr(ERROR, line)
    logger.warning("Trial %d failed: %s", trial.number, line)


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial of the highest NDCG@10, the first of equals; None where none is."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return max(complete, key=lambda t: (t.value, -original_number(t)), default=None)


def _so_far(study: optuna.Study, wanted: int) -> tuple[int, int, float | None]:
    finished = finished_trials(study)
    best = best_of(finished)
    return min(len(finished), wanted), wanted, best.value if best else None
