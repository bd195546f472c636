"""Tune: search for hyper-parameters by validation alone, and write the best as settings.

A search killed at any moment is resumed by running it again; finished trials are not repeated.
"""

import shutil
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pipeline.config.settings import Settings, settings_file
from pipeline.data.held_out import held_out_events
from pipeline.errors import SearchError, naming
from pipeline.evaluation.evaluate import evaluate
from pipeline.results import Evaluated, Prepared, Trained
from pipeline.runner.failures import storage_failures
from pipeline.runner.nightly import run_stage
from pipeline.runner.run_checks import check_outside_of
from pipeline.runner.stages import Ingest, Prepare
from pipeline.storage.replaced_inputs import check_replaces_no_input
from pipeline.tuning.outputs import (
    BEST_FILE,
    DATA,
    check_folder,
    clear,
    lock_search,
    parameters_of,
    write_plots,
    write_settings,
    write_trials,
)
from pipeline.tuning.params_file import read_space, values_of, with_values
from pipeline.tuning.search import Progress, Search, best_of
from pipeline.tuning.search_space import Space, describe
from pipeline.tuning.study import (
    EPOCH,
    ERROR,
    check_resume_key,
    fill_queue,
    finished_trials,
    load_study,
    original_number,
    requeue_interrupted,
    study_errors,
    trials_wanted,
)
from pipeline.tuning.trial import known_to_training

_NOT_OF_TRIALS = {"refit", "warm_start"}  # settings of a run's training


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
    config: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Search on the data of one run date, which are ingested and prepared first.

    Every trial starts anew and never sees the test set; the best trial is evaluated
    on the test set once, at the end.

    Args:
        settings: Settings of the run; `settings.tune` holds those of the search.
        run_date: Logs up to the end of this day are used.
        config: The settings file that was given, which the search may not replace.
        overwrite: Remove an earlier search in the output folder and begin again.
        progress: Called at the start and whenever a trial has ended.

    Raises:
        ConfigError: the params file or the output folder cannot be used, or the best settings
            would replace a file that is read.
        ResumeError: the folder holds another search.
        BusyError: another process is at work on the same search or run.
        InputError: there is nothing to train or validate on.
        SearchError: no trial was completed.
        FearecError: see the stages `ingest` and `prepare`.
    """
    tune = settings.tune
    check_outside_of(settings.logs.path, tune.out, "tune.out")
    inputs = settings_file(config), tune.params_file
    check_replaces_no_input(tune.out / BEST_FILE, "tune.out", inputs)
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
            resume_key = _resume_key(settings, run_date, space, prepared)
            check_resume_key(study, tune.out, resume_key, run_date)
            requeue_interrupted(study)
            # A copy, since a nightly run may prepare other data meanwhile.
            data = tune.out / DATA
            shutil.copytree(prepared.folder, data, dirs_exist_ok=True)
            search = Search(settings, run_date, replace(prepared, folder=data), space)
            known_to_training(settings, run_date, search.prepared)  # check before any trial
            search.run(study, fill_queue(study, space, settings, wanted), wanted, progress)
            return _conclude(search, study)


def _conclude(search: Search, study: optuna.Study) -> Tuned:
    """Evaluate the best trial on the test set, and write the outputs of the search."""
    trials = finished_trials(study)
    best = best_of(trials)
    if best is None or best.value is None:
        errors = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
        raise SearchError(
            "no trial was completed", str(search.out), found=errors[0] if errors else ""
        )
    settings = with_values(search.settings, parameters_of(best, search.space))
    epoch = best.user_attrs[EPOCH]
    weights = Trained(search.folder(best), epoch, best.value, parent=None, refit=False)
    states = [trial.state for trial in trials]
    return Tuned(
        trials=write_trials(search.out, trials, search.space),
        plots=write_plots(search.out, study),
        settings=write_settings(search.out, settings, len(trials), best),
        n_complete=states.count(TrialState.COMPLETE),
        n_pruned=states.count(TrialState.PRUNED),
        n_failed=states.count(TrialState.FAIL),
        best=original_number(best),
        parameters=values_of(settings, search.space.parameters),
        valid_ndcg_at_10=best.value,
        test=evaluate(
            search.prepared,
            weights,
            settings.model,
            settings.train,
            settings.evaluate,
            held_out_events(settings, search.run_date),
            settings.prepare,
            settings.event_types.inputs,
            champion=None,
        ),
    )


def _resume_key(
    settings: Settings, run_date: date, space: Space, prepared: Prepared
) -> dict[str, Any]:
    """Everything that decides the trials and their results, by name."""
    training = settings.train.result_settings()
    sections = {
        "model": settings.model.config(prepared.n_items).result_settings(),
        "train": {name: training[name] for name in training if name not in _NOT_OF_TRIALS},
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
