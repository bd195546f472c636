"""One trial of a search: training as in a nightly run, from no champion, and its validation."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch.utilities.exceptions import SIGTERMException

from model.cores import Threads
from model.progress import draws_bars
from model.training.task import TrainingTask
from model.training.trainer import fit
from model.training.weights import save_weights
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.data.prepared import read_histories
from pipeline.data.splits import Split, split_histories
from pipeline.engines.own_process import in_own_process
from pipeline.errors import InputError
from pipeline.evaluation.protocol import check_topk
from pipeline.results import Prepared
from pipeline.tuning.study import load_study


class TrialEndedError(Exception):
    """The process of a trial was told to end."""


@dataclass(frozen=True)
class Run:
    """A training run, in a form that can be sent to another process.

    Attributes:
        settings: Settings with the trial's hyper-parameters.
        run_date: Run date of the search.
        prepared: The search's own copy of the prepared data.
        folder: Folder for the checkpoints and, at the end, `held_out.safetensors`.
        threads: CPU threads of PyTorch.
    """

    settings: Settings
    run_date: date
    prepared: Prepared
    folder: Path
    threads: Threads


@dataclass(frozen=True)
class Judged:
    """The best epoch of a run, from 1, and its NDCG@10 on validation."""

    epoch: int
    valid_ndcg_at_10: float


def known_to_training(settings: Settings, run_date: date, prepared: Prepared) -> Split:
    """The data of a search: everything before the test set.

    Raises:
        ConfigError: the evaluation's topk is larger than the number of items.
        InputError: there are no users to train, validate or evaluate on.
    """
    check_topk(settings.evaluate, prepared.n_items)
    inputs, seen = settings.event_types.inputs, settings.evaluate.seen_types
    histories = read_histories(prepared.folder, inputs, seen)
    held_out = held_out_events(settings, run_date)
    known = split_histories(histories, held_out, prepared).without_test()
    for targets, lack in (
        (known.train, "nothing to train on"),
        (known.valid, "no users to validate on"),
    ):
        if not len(targets):
            raise InputError(
                lack,
                str(prepared.folder),
                expected="a user with at least four interactions",
                found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
            )
    return known


def train_here(run: Run, on_epoch: Callable[[int, float], None]) -> Judged:
    """Train in this process; a run killed earlier resumes from its last checkpoint.

    Args:
        run: The training run.
        on_epoch: See `model.training.trainer.train_epochs`.

    Raises:
        FearecError: the training diverged.
    """
    return train_on(known_to_training(run.settings, run.run_date, run.prepared), run, on_epoch)


def train_on(known: Split, run: Run, on_epoch: Callable[[int, float], None]) -> Judged:
    """As `train_here`, on data that were read before: see `known_to_training`."""
    task = TrainingTask(
        run.settings.model.config(run.prepared.n_items),
        # Several devices are better used by several trials at a time than by one on all of them.
        run.settings.train.model_copy(
            update={"devices": 1, "strategy": "auto", "threads": run.threads}
        ),
        known.histories,
        known.train,
        known.valid,
        weights=known.weights(run.settings.event_types.weights),
        mask_seen=bool(run.settings.evaluate.mask_seen),
    )
    fitted = fit(
        task,
        run.folder,
        progress=not draws_bars(),  # it would be drawn over the search's
        on_epoch=on_epoch,
    )
    assert (
        fitted.valid_ndcg_at_10 is not None
    )  # `known_to_training` checked that there is validation
    save_weights(fitted.network, run.folder / HELD_OUT_WEIGHTS)
    return Judged(fitted.epoch, fitted.valid_ndcg_at_10)


def train_apart(run: Run, out: Path, trial: optuna.Trial) -> Judged:
    """Train in a process of the trial's own; if the system kills it, only this trial fails.

    Args:
        run: The training run.
        out: The search's folder.
        trial: The trial, to which the process reports.
    """
    # Optuna has no public name for a trial's id in its storage.
    return in_own_process(_train_reporting, run, out, trial._trial_id)


def end_trials(until: Future[Any]) -> None:
    """Send SIGTERM to the processes of trials, each once, until nothing is at work.

    These are all child processes that `multiprocessing` knows: a search has no others.

    Args:
        until: Done when nothing is.
    """
    ended: set[int | None] = set()
    while not until.done():
        for process in multiprocessing.active_children():
            if process.pid not in ended:
                ended.add(process.pid)
                process.terminate()
        wait([until], timeout=0.5)


class Pruning:
    """Reports each epoch to the study, and ends a trial that the study prunes.

    Args:
        trial: The trial.
        epochs: The run's number of epochs; after the last one, pruning saves nothing.
    """

    def __init__(self, trial: optuna.Trial, epochs: int) -> None:
        self.trial = trial
        self.epochs = epochs
        # A resumed trial repeats the epochs after its last checkpoint.
        trials = trial.study.get_trials(deepcopy=False)
        self.reported = trials[trial.number].intermediate_values

    def __call__(self, epoch: int, ndcg: float) -> None:
        """Report an epoch.

        Raises:
            TrialPruned: the trial is worse than the median of those before it.
        """
        if epoch not in self.reported:
            self.trial.report(ndcg, epoch)
        if epoch < self.epochs and self.trial.should_prune():
            raise optuna.TrialPruned


def _train_reporting(run: Run, out: Path, trial_id: int) -> Judged:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    trial = optuna.Trial(load_study(out, run.settings), trial_id)
    try:
        return train_here(run, Pruning(trial, run.settings.train.epochs))
    except SIGTERMException:  # a SystemExit, which would end the whole search
        raise TrialEndedError("its process was sent SIGTERM") from None
