"""The Optuna study of a search: what it is of, its queue of trials, and how it goes on."""

import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from pydantic_core import to_jsonable_python

from pipeline.config.sections import TuneSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, ResumeError
from pipeline.tuning.search_space import Space, Value

STUDY_FILE = "study.db"
ERROR = "error"  # why a trial failed; without it, a failed trial was cut short
EPOCH = "best_epoch"

_IDENTITY = "identity"
_DEFAULT_EVALS = 100
_LARGEST_GRID = 10_000
_PATIENCE = 60.0  # seconds, while another process writes


def trials_wanted(space: Space, tune: TuneSettings) -> int:
    """How many trials the search has in all; never more than there are combinations.

    Raises:
        ConfigError: an exhaustive search would have no end.
    """
    if tune.algo == "exhaustive" and space.size > _LARGEST_GRID:
        where, found = str(tune.params_file), f"{space.size:,.6g}"
        if space.endless:
            where, found = space.places[space.endless], f"endlessly many, of {space.endless}"
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
    taking = threading.Lock()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """One worker at a time: SQLite locks no row, and two would take the same trial."""
        with self.taking:
            return super().set_trial_state_values(trial_id, state, values)


def load_study(out: Path, settings: Settings) -> optuna.Study:
    """The study in a search's folder, begun if there is none."""
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if settings.tune.prune:
        # No sooner than a run that gets no better would be ended.
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=settings.train.stopping_step)
    # Quoted, for in an address `?` and braces have a meaning.
    address = f"sqlite:///file:{quote(str(out / STUDY_FILE))}?uri=true"
    storage = _Storage(address, engine_kwargs={"connect_args": {"timeout": _PATIENCE}})
    return optuna.create_study(
        study_name="fearec",
        storage=storage,
        # Only TPE chooses while the search runs; see `fill_queue`.
        sampler=RandomSampler(),
        pruner=pruner,
        direction="maximize",
        load_if_exists=True,
    )


def bind(study: optuna.Study, out: Path, identity: Mapping[str, Any]) -> None:
    """Note what the study is of, or compare it with what it was begun with.

    Raises:
        ResumeError: it is of another search space, other data or other settings.
    """
    now = to_jsonable_python(identity)
    before = study.user_attrs.get(_IDENTITY)
    if before is None:
        study.set_user_attr(_IDENTITY, now)
        return
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise ResumeError(
                f"the search cannot be resumed: {name} is not what it was",
                str(out),
                expected=str(before.get(name)),
                found=str(now.get(name)),
                remedy="Begin again with --overwrite, or in another folder with --out.",
            )


def original_number(trial: FrozenTrial) -> int:
    """A trial's number; that of the first attempt where it was cut short."""
    return int(trial.system_attrs.get("retry_history", [trial.number])[0])


def was_cut_short(trial: FrozenTrial) -> bool:
    """Whether the search was ended while it ran, so that another attempt stands for it."""
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


def attempts(study: optuna.Study) -> list[FrozenTrial]:
    """The study's trials, of each the last attempt, in the order of their original numbers."""
    trials = study.get_trials(deepcopy=False)
    return sorted((t for t in trials if not was_cut_short(t)), key=original_number)


def mend(study: optuna.Study) -> None:
    """Queue again what was running when the search was killed. Nobody else may be at work on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # With what was reported: the trial goes on from its checkpoint, not from the beginning.
        retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    for trial in trials:
        if trial.number in again:
            continue
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            retry(study, trial)
        elif was_cut_short(trial):
            retry(study, trial)


def fill_queue(study: optuna.Study, space: Space, settings: Settings, wanted: int) -> int:
    """Queue every trial that the search still lacks, so that each is run exactly once.

    Those of an exhaustive or random search are drawn here, in an order that depends on the seed
    alone: neither a kill nor the number of workers changes what is tried. TPE chooses when a
    trial begins.

    Returns:
        How many are to be run.
    """
    seed, known = settings.train.seed, attempts(study)
    finished = sum(trial.state.is_finished() for trial in known)
    if settings.tune.algo == "tpe":
        study.sampler = TPESampler(seed=seed + finished)  # or a resumed search would draw alike
        drawn: list[dict[str, Value]] = [{}] * wanted
    else:
        drawn = _drawn(space, seed, wanted)
    for values in drawn[len(known) :]:
        study.enqueue_trial(values)
    return max(0, wanted - finished)


def _drawn(space: Space, seed: int, wanted: int) -> list[dict[str, Value]]:
    sampler: BaseSampler = RandomSampler(seed)
    if space.size <= _LARGEST_GRID:
        sampler = GridSampler(space.grid, seed)  # in random order, none twice
    study = optuna.create_study(sampler=sampler)
    return [space.suggest(study.ask()) for _ in range(wanted)]
