"""The Optuna study of a search: its resume key, its queue of trials, and how it is resumed."""

import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from pydantic_core import to_jsonable_python
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config.settings import Settings
from pipeline.config.tune_section import TuneSettings
from pipeline.errors import ConfigError, ResumeError, StorageError
from pipeline.tuning.search_space import Space, Value

STUDY_FILE = "study.db"
ERROR = "error"  # why a trial failed; a failed trial without it was interrupted
EPOCH = "best_epoch"

_RESUME_KEY = "identity"  # as stored in the studies of earlier versions
_UNKEYED = {"train.accelerator", "train.eval_batch_size"}  # names that earlier versions stored too
_RUN_DATE = "run_date"
_DEFAULT_EVALS = 100
_LARGEST_GRID = 10_000
_LOCK_TIMEOUT = 60.0  # seconds to wait while another process writes


def trials_wanted(space: Space, tune: TuneSettings) -> int:
    """The number of trials of the whole search; at most the number of combinations.

    Raises:
        ConfigError: there are too many combinations for an exhaustive search.
    """
    if tune.algo == "exhaustive" and space.size > _LARGEST_GRID:
        where, found = str(tune.params_file), f"{space.size:,.6g}"
        if space.continuous:
            where, found = space.places[space.continuous], f"infinitely many of {space.continuous}"
        raise ConfigError(
            "too many combinations for an exhaustive search",
            where,
            expected=f"at most {_LARGEST_GRID:,}, of choice and quniform",
            found=found,
            remedy="Use --algo random or --algo tpe.",
        )
    default = math.inf if tune.algo == "exhaustive" else _DEFAULT_EVALS
    return int(min(tune.max_evals or default, space.size))


class _Storage(RDBStorage):
    lock = threading.Lock()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set the state for one worker at a time.

        SQLite locks no single row, so that two workers would take the same trial.
        """
        with self.lock:
            return super().set_trial_state_values(trial_id, state, values)


def load_study(out: Path, settings: Settings) -> optuna.Study:
    """The study in a search's folder; a new one if there is none."""
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if settings.tune.prune:
        # Not before early stopping could end a run.
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=settings.train.stopping_step)
    # Quoted because `?` and braces have a meaning in a URI.
    address = f"sqlite:///file:{quote(str(out / STUDY_FILE))}?uri=true"
    storage = _Storage(address, engine_kwargs={"connect_args": {"timeout": _LOCK_TIMEOUT}})
    return optuna.create_study(
        study_name="fearec",
        storage=storage,
        # Replaced for TPE, the only one that draws while the search runs; see `fill_queue`.
        sampler=RandomSampler(),
        pruner=pruner,
        direction="maximize",
        load_if_exists=True,
    )


@contextmanager
def study_errors(out: Path) -> Iterator[None]:
    """Silence Optuna's log, and turn errors of its storage into a one-line `StorageError`.

    Raises:
        StorageError: the study cannot be read or written.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    except (SQLAlchemyError, OptunaError) as error:
        raise StorageError(
            "the study cannot be read or written",
            str(out / STUDY_FILE),
            found=" ".join(str(error.__cause__ or error).split()),
            remedy="Free some space and run the same command to go on, or begin again with "
            "--overwrite.",
        ) from error
    finally:
        optuna.logging.set_verbosity(level)


def check_resume_key(
    study: optuna.Study, out: Path, resume_key: Mapping[str, Any], run_date: date
) -> None:
    """Store the resume key in a new study; compare it with the stored one of another.

    Args:
        study: The study.
        out: The search's folder.
        resume_key: Everything that decides the trials and their results, by name.
        run_date: Run date of the search, which the error names if it is another one.

    Raises:
        ResumeError: the study has another search space, other data or other settings.
    """
    now = to_jsonable_python(resume_key)
    before = study.user_attrs.get(_RESUME_KEY)
    if before is None:
        study.set_user_attr(_RESUME_KEY, now)
        study.set_user_attr(_RUN_DATE, str(run_date))
        return
    begun = study.user_attrs.get(_RUN_DATE, str(run_date))
    remedy = "Begin again with --overwrite, or in another folder with --out."
    if begun != str(run_date):
        remedy = f"Go on with --date {begun}, with which it was begun. {remedy}"
    for name in [name for name in {**before, **now} if name not in _UNKEYED]:
        if before.get(name) != now.get(name):
            raise ResumeError(
                f"the search cannot be resumed: {name} is not what it was",
                str(out),
                expected=str(before.get(name)),
                found=str(now.get(name)),
                remedy=remedy,
            )


def original_number(trial: FrozenTrial) -> int:
    """The number of a trial's first attempt; it has several if it was interrupted."""
    return int(trial.system_attrs.get("retry_history", [trial.number])[0])


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether the search ended while the trial ran, so that another attempt replaces it."""
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


def last_attempts(study: optuna.Study) -> list[FrozenTrial]:
    """The last attempt of each trial, in the order of their original numbers."""
    trials = study.get_trials(deepcopy=False)
    return sorted((t for t in trials if not was_interrupted(t)), key=original_number)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The last attempts that have ended, in the order of their original numbers."""
    return [trial for trial in last_attempts(study) if trial.state.is_finished()]


def requeue_interrupted(study: optuna.Study) -> None:
    """Queue again the trials that ran when the search was killed; the caller holds its lock."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # With the values reported so far: the trial resumes from its checkpoint.
        retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    for trial in trials:
        if trial.number in again:
            continue
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            retry(study, trial)
        elif was_interrupted(trial):
            retry(study, trial)


def fill_queue(study: optuna.Study, space: Space, settings: Settings, wanted: int) -> int:
    """Queue every trial that the search still lacks, so that each runs exactly once.

    The trials of an exhaustive or random search are drawn here, in an order that depends on the
    seed alone: neither a kill nor the number of workers changes them. TPE draws a trial's values
    when it begins.

    Returns:
        The number of trials still to run.
    """
    seed, known = settings.train.seed, last_attempts(study)
    finished = len(finished_trials(study))
    if settings.tune.algo == "tpe":
        study.sampler = TPESampler(seed=seed + finished)  # else a resumed search repeats its draws
        drawn: list[dict[str, Value]] = [{}] * wanted
    else:
        drawn = _draw(space, seed, wanted)
    for values in drawn[len(known) :]:
        study.enqueue_trial(values)
    return max(0, wanted - finished)


def _draw(space: Space, seed: int, wanted: int) -> list[dict[str, Value]]:
    sampler: BaseSampler = RandomSampler(seed)
    if space.size <= _LARGEST_GRID:
        sampler = GridSampler(space.grid, seed)  # in random order, without repetition
    study = optuna.create_study(sampler=sampler)
    return [space.suggest(study.ask()) for _ in range(wanted)]
