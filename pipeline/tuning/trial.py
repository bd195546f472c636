"""One trial of a search: trained as a night would, from random weights, judged by validation."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import optuna
import torch

from model.network.fearec import FEARec
from model.training.trainer import fit
from model.training.weights import save_weights
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.data.prepared import read_histories
from pipeline.data.splits import Split, split_histories
from pipeline.engines.own_process import in_own_process
from pipeline.errors import FearecError, InputError
from pipeline.evaluation.protocol import check_topk
from pipeline.results import Prepared
from pipeline.tuning.study import load_study


@dataclass(frozen=True)
class Run:
    """A training run, in a form that another process can be sent.

    Attributes:
        settings: With the trial's hyper-parameters.
        run_date: Of the night whose data these are.
        prepared: The search's own copy of them.
        folder: Takes checkpoints, and `held_out.safetensors` in the end.
    """

    settings: Settings
    run_date: date
    prepared: Prepared
    folder: Path


@dataclass(frozen=True)
class Judged:
    """The best epoch of a run, from 1, and its NDCG@10 on validation."""

    epoch: int
    valid_ndcg_at_10: float


def known_to_training(settings: Settings, run_date: date, prepared: Prepared) -> Split:
    """The data of a search: all that comes before the test.

    Raises:
        ConfigError: the evaluation asks for more items than there are.
        InputError: there is nothing to train on, or nobody to validate or evaluate on.
    """
    check_topk(settings.evaluate, prepared.n_items)
    histories = read_histories(prepared.folder)
    held_out = held_out_events(settings.evaluate, run_date, settings.time_zone)
    known = split_histories(histories, held_out, prepared).without_test()
    for targets, lack in (
        (known.train, "nothing to train on"),
        (known.valid, "nobody to validate on"),
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
    """Train in this process; a run killed earlier goes on from its last checkpoint.

    Args:
        run: What to train, and where.
        on_epoch: As of `model.training.trainer.fit`.

    Raises:
        FearecError: the training diverged.
    """
    known = known_to_training(run.settings, run.run_date, run.prepared)
    fitted = fit(
        run.settings.model.config(run.prepared.n_items),
        # Several trials at a time make better use of several devices than one on all of them.
        run.settings.train.model_copy(update={"devices": 1, "strategy": "auto"}),
        known.histories,
        known.train,
        known.valid,
        run.folder,
        mask_seen=run.settings.evaluate.mask_seen,
        progress=False,
        on_epoch=on_epoch,
    )
    if not _finite(fitted.network):
        raise FearecError("the training diverged: weights are not finite", str(run.folder))
    assert fitted.valid_ndcg_at_10 is not None  # there is somebody to validate on
    save_weights(fitted.network, run.folder / HELD_OUT_WEIGHTS)
    return Judged(fitted.epoch, fitted.valid_ndcg_at_10)


def train_apart(run: Run, out: Path, trial: optuna.Trial, threads: int) -> Judged:
    """Train in a process of the trial's own; should the system kill it, only this trial fails.

    Args:
        run: What to train, and where.
        out: The search's folder.
        trial: Which the process reports to.
        threads: Of PyTorch.
    """
    # Optuna has no public name for what finds a trial in its storage.
    return in_own_process(_train_reporting, run, out, trial._trial_id, threads)


class Pruning:
    """Reports each epoch to the study and ends a trial that the study has no hopes of.

    Args:
        trial: Which of the study's.
        epochs: After the last of which there is nothing left to spare.
    """

    def __init__(self, trial: optuna.Trial, epochs: int) -> None:
        self.trial = trial
        self.epochs = epochs
        # Epochs after the last checkpoint are done again by a resumed trial.
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


def _train_reporting(run: Run, out: Path, trial_id: int, threads: int) -> Judged:
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    trial = optuna.Trial(load_study(out, run.settings), trial_id)
    return train_here(run, Pruning(trial, run.settings.train.epochs))


def _finite(network: FEARec) -> bool:
    return all(bool(weight.isfinite().all()) for weight in network.parameters())
