"""One training run by Lightning: early stopping, best and last checkpoints, resumption."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException
from torch.utils.data import DataLoader

from model.config import TrainingConfig
from model.errors import ConfigError, DivergenceError, FearecError
from model.network.fearec import FEARec
from model.progress import draws_bars
from model.training.checkpoints import (
    BEST,
    LAST,
    WholeCheckpoints,
    best_checkpoint,
    keep_whole,
    last_checkpoint,
)
from model.training.epoch_log import EpochLog
from model.training.item_start import start_items
from model.training.lightning_module import MONITOR, FEARecModule
from model.training.precision import choose_accelerator, choose_precision
from model.training.processes import (
    MATMUL_PRECISION,
    JoinedProcesses,
    ProcessGroup,
    SpawnedProcesses,
    quiet,
)
from model.training.progress import EpochBar, TrainingLines
from model.training.samples import ShuffledBatches, TrainingSet
from model.training.task import TrainingTask
from model.training.threads import set_threads

_CHECKED_BATCHES = 50


@dataclass(frozen=True)
class Fitted:
    """A trained network with its epoch and validation metric.

    Attributes:
        network: The best epoch's weights, in eval mode, on the CPU.
        epoch: Number of epochs of these weights, from 1: the best one's with validation, all
            without.
        valid_ndcg_at_10: NDCG@10 of that epoch; None without validation.
    """

    network: FEARec
    epoch: int
    valid_ndcg_at_10: float | None


class _Generator(torch.Generator):
    def __reduce__(self) -> Any:
        """Pickle without the state, which PyTorch's own generator loses too."""
        return _Generator, ()


class _DivergenceCheck(Callback):
    """Ends a run whose loss is no number, before its checkpoint is written.

    Reading the loss makes the CPU wait for the device, so not every batch is checked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss."""
        if batch_idx % _CHECKED_BATCHES == 0 or trainer.is_last_batch:
            _check_finite("loss", outputs["loss"], self.folder)


def _check_finite(name: str, value: Tensor, folder: Path) -> None:
    if not bool(value.isfinite().all()):
        raise DivergenceError(
            f"the training diverged: its {name} is not a finite number",
            str(folder),
            remedy="Lower train.learning_rate, or set train.clip_grad_norm.",
        )


class _EarlyStopping(EarlyStopping):
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep a run that had stopped early stopped when it is resumed."""
        trainer.should_stop = self.wait_count >= self.patience


class _EpochReport(Callback):
    def __init__(self, on_epoch: Callable[[int, float], None]) -> None:
        self.on_epoch = on_epoch

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the epoch's metric; an exception raised there ends the run."""
        if not trainer.sanity_checking:
            self.on_epoch(trainer.current_epoch + 1, float(trainer.callback_metrics[MONITOR]))


def fit(
    task: TrainingTask,
    folder: Path,
    *,
    progress: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train a network; a run killed earlier in the same folder resumes where it stopped.

    A damaged checkpoint counts as none: the run begins anew.

    Args:
        task: What is trained, on what, and how.
        folder: Folder of checkpoints and logs.
        progress: See `train_epochs`.
        on_epoch: See `train_epochs`.

    Raises:
        ConfigError: the machine lacks the accelerator or the number of devices.
        DivergenceError: a loss, or the output, is not a finite number.
        FearecError: a process of several failed.
    """
    train_epochs(task, folder, progress=progress, on_epoch=on_epoch)
    return read_fitted(task, folder)


def train_epochs(
    task: TrainingTask,
    folder: Path,
    *,
    progress: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
    group: ProcessGroup | None = None,
    on_saved: Callable[[Path], None] | None = None,
) -> None:
    """Train until the end, or go on until there; what `read_fitted` reads is in the folder then.

    Args:
        task: See `fit`.
        folder: See `fit`. Of a group's processes only the first one writes checkpoints, but each
            needs those that it goes on from.
        progress: Whether to show progress: a bar on a terminal, plain lines elsewhere.
        on_epoch: Called after each validation with the epoch, from 1, and its NDCG@10; an
            exception that it raises ends the run.
        group: The group of processes of which this one trains on one device; None trains alone,
            or in processes of its own, by `task.training.devices`.
        on_saved: Called with the path of each checkpoint that was written.

    Raises:
        ConfigError: see `fit`.
        DivergenceError: see `fit`.
        FearecError: see `fit`.
        RuntimeError: another process of the group is gone; see `lost_contact`.
    """
    training = task.training
    torch.set_float32_matmul_precision(MATMUL_PRECISION)
    threads = set_threads(training.threads)
    module = FEARecModule(task.config, training, task.histories, task.mask_seen)
    begun = str(folder / LAST) if keep_whole(folder) else None
    if begun is None:
        _start(module.network, task)
    processes = None
    if group is None and (training.devices != 1 or training.strategy != "auto"):
        processes = SpawnedProcesses(threads)
    with quiet():
        try:
            trainer = Trainer(
                accelerator=choose_accelerator(training),
                devices=training.devices,
                num_nodes=group.size if group else 1,
                strategy=JoinedProcesses(group, threads) if group else processes or "auto",
                precision=choose_precision(training),
                max_epochs=task.epochs or training.epochs,
                gradient_clip_val=training.clip_grad_norm,
                logger=_logger(training, folder),
                callbacks=_callbacks(task, folder, progress, on_epoch),
                enable_progress_bar=progress and draws_bars(),
                enable_model_summary=False,
                use_distributed_sampler=False,  # ShuffledBatches distributes batches itself
                default_root_dir=folder,
                plugins=[WholeCheckpoints(on_saved)],
            )
        except MisconfigurationException as error:
            raise ConfigError(
                f"this machine lacks the devices to train on ({' '.join(str(error).split())})",
                "train.accelerator",
                expected=f"train.devices = {training.devices} of {training.accelerator}",
                remedy="Choose devices that it has, or auto.",
            ) from None
        try:
            with processes.logs if processes else contextlib.nullcontext():
                trainer.fit(module, *_batches(task), ckpt_path=begun)
        except ProcessException as error:  # with the traceback of the process as its text
            raise FearecError(
                "a training process failed",
                str(folder),
                found=str(error).strip().splitlines()[-1],
                remedy="Without a reason it was killed, perhaps for lack of memory.",
            ) from error


def _start(network: FEARec, task: TrainingTask) -> None:
    """Set the weights that a training begins with."""
    if task.start is not None:
        network.load_state_dict(task.start.state_dict())
    elif task.training.item_start == "co_occurrence":
        start_items(network, task.histories, task.train, task.training.seed)


def read_fitted(task: TrainingTask, folder: Path) -> Fitted:
    """Read the network of a training that has come to its end, wherever it took place.

    Raises:
        DivergenceError: the output is not a finite number.
    """
    state = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    module = FEARecModule(task.config, task.training)
    module.load_state_dict(state["state_dict"])
    best = best_checkpoint(folder, is_validated=task.is_validated)
    score = state["callbacks"][best.state_key]["best_model_score"]
    network = module.network.eval()
    with torch.inference_mode():  # an epoch's last step shows in no loss
        length = task.config.MAX_ITEM_LIST_LENGTH
        windows = task.histories.windows(task.train[:_CHECKED_BATCHES], length)
        _check_finite("output", network(*windows), folder)
    return Fitted(
        network,
        state["epoch"] + 1,
        float(score) if task.is_validated and score is not None else None,
    )


def _callbacks(
    task: TrainingTask,
    folder: Path,
    progress: bool,
    on_epoch: Callable[[int, float], None] | None,
) -> list[Callback]:
    callbacks: list[Callback] = [
        _DivergenceCheck(folder),
        best_checkpoint(folder, is_validated=task.is_validated),
        last_checkpoint(folder),
        EpochLog(),
    ]
    if task.is_validated:
        patience = task.training.stopping_step
        callbacks.append(_EarlyStopping(MONITOR, mode="max", patience=patience))
    if on_epoch:
        callbacks.append(_EpochReport(on_epoch))
    if progress:
        doing = "training" if task.is_validated else "training on all events"
        callbacks.append(EpochBar() if draws_bars() else TrainingLines(doing))
    return callbacks


def _logger(training: TrainingConfig, folder: Path) -> Logger:
    if training.logger == "tensorboard":
        return TensorBoardLogger(str(folder), name="logs", version=0)
    return CSVLogger(str(folder), name="logs")  # version_0, and one more each time it is resumed


def _batches(task: TrainingTask) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
    """The batches of training, and those of validation."""
    training = task.training
    samples: DataLoader[Any] = DataLoader(
        TrainingSet(task.histories, task.train, task.config, training.item_dropout, task.weights),
        batch_size=None,
        sampler=ShuffledBatches(len(task.train), training.train_batch_size, training.seed),
        # A separate generator, as the loader draws from it after the first epoch's seeding, but
        # before it in a resumed run.
        generator=_Generator(),
    )
    if not task.is_validated or task.valid is None:
        return samples, None
    positions: Any = task.valid.split(training.eval_batch_size)
    return samples, DataLoader(positions, batch_size=None)
