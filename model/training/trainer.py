"""One training run by Lightning: early stopping, best and last checkpoints, resumption."""

import contextlib
import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException
from torch.utils.data import DataLoader

from model.config import FEARecConfig, TrainingConfig
from model.cores import thread_count
from model.errors import ConfigError, DivergenceError, FearecError
from model.network.fearec import FEARec
from model.process_logs import ProcessLogs
from model.progress import draws_bars
from model.training.checkpoints import WholeCheckpoints, is_whole
from model.training.epoch_log import EpochLog
from model.training.histories import EventHistories
from model.training.item_start import start_items
from model.training.lightning_module import MONITOR, FEARecModule
from model.training.progress import EpochBar, TrainingLines
from model.training.samples import ShuffledBatches, TrainingSet
from model.training.threads import set_threads

BEST, LAST = "best.ckpt", "last.ckpt"

_MATMUL_PRECISION = "high"
_CHECKED_BATCHES = 50
_LOGGERS = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]


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


class _Processes(DDPStrategy):
    """DDP in spawned processes that only train; Lightning's default runs the command again."""

    def __init__(self, threads: int) -> None:
        # Some biases (a softmax's keys') have no effect and no gradient, which plain DDP rejects.
        super().__init__(start_method="spawn", find_unused_parameters=True)
        self.threads = threads
        self.logs = ProcessLogs()

    def connect(self, model: LightningModule) -> None:
        """First hook in each worker: repeat the global set-up of `fit`."""
        torch.set_float32_matmul_precision(_MATMUL_PRECISION)
        torch.set_num_threads(thread_count(self.threads, self.num_processes))
        _silence_lightning()
        self.logs.connect()
        super().connect(model)

    def on_exception(self, exception: BaseException) -> None:
        """Kill the workers, for which an interrupted run would otherwise wait."""
        if self.launcher is not None:
            self.launcher.kill(signal.SIGKILL)
        super().on_exception(exception)


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's messages on hardware, tips and existing folders."""
    levels = [logger.level for logger in _LOGGERS]
    with warnings.catch_warnings():
        _silence_lightning()
        try:
            yield
        finally:
            for logger, level in zip(_LOGGERS, levels, strict=True):
                logger.setLevel(level)


def _silence_lightning() -> None:
    for logger in _LOGGERS:
        logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    # Batches are gathered from arrays in memory; worker processes would only copy them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")


def fit(
    config: FEARecConfig,
    training: TrainingConfig,
    histories: EventHistories,
    train: Tensor,
    valid: Tensor | None,
    folder: Path,
    *,
    epochs: int | None = None,
    weights: Tensor | None = None,
    start: FEARec | None = None,
    mask_seen: bool = True,
    progress: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train a network; a run killed earlier in the same folder resumes where it stopped.

    A damaged checkpoint counts as none: the run begins anew.

    Args:
        config: The network.
        training: Optimiser, epochs, batch sizes, precision, devices, seed.
        histories: All items.
        train: int64 (S,), flat positions of training targets.
        valid: int64, flat positions of validation targets; None or empty trains all epochs.
        folder: Folder of checkpoints and logs.
        epochs: Overrides `training.epochs`.
        weights: float32 (S,), of the training targets in the loss of the next item; None for equal
            ones.
        start: Initial weights (see `model.training.weights`); random ones by default.
        mask_seen: Whether validation leaves out the items that a user has already met.
        progress: Whether to show progress: a bar on a terminal, plain lines elsewhere.
        on_epoch: Called after each validation with the epoch, from 1, and its NDCG@10; an
            exception that it raises ends the run.

    Raises:
        ConfigError: the machine lacks the accelerator or the number of devices.
        DivergenceError: a loss, or the output, is not a finite number.
        FearecError: a process of several failed.
    """
    torch.set_float32_matmul_precision(_MATMUL_PRECISION)
    threads = set_threads(training.threads)
    module = FEARecModule(config, training, histories, mask_seen)
    if start is not None:
        module.network.load_state_dict(start.state_dict())
    elif training.item_start == "co_occurrence":
        start_items(module.network, histories, train, training.seed)
    validated = valid is not None and len(valid) > 0
    best = ModelCheckpoint(
        folder, Path(BEST).stem, monitor=MONITOR if validated else None, mode="max",
        enable_version_counter=False,
    )  # fmt: skip
    # Runs after `best`, whose state it stores; Lightning's own `save_last` follows a new best only.
    newest = ModelCheckpoint(folder, Path(LAST).stem, enable_version_counter=False)
    callbacks: list[Callback] = [_DivergenceCheck(folder), best, newest, EpochLog()]
    if validated:
        callbacks.append(_EarlyStopping(MONITOR, mode="max", patience=training.stopping_step))
    if on_epoch:
        callbacks.append(_EpochReport(on_epoch))
    if progress:
        callbacks.append(EpochBar() if draws_bars() else TrainingLines())
    logger: Logger = (TensorBoardLogger if training.logger == "tensorboard" else CSVLogger)(
        str(folder), name="logs", version=0
    )
    samples: DataLoader[Any] = DataLoader(
        TrainingSet(histories, train, config, training.item_dropout, weights),
        batch_size=None,
        sampler=ShuffledBatches(len(train), training.train_batch_size, training.seed),
        # A separate generator, as the loader draws from it after the first epoch's seeding, but
        # before it in a resumed run.
        generator=_Generator(),
    )
    held_out: DataLoader[Any] | None = None
    if validated and valid is not None:
        batches: Any = valid.split(training.eval_batch_size)
        held_out = DataLoader(batches, batch_size=None)
    several = training.devices != 1 or training.strategy != "auto"
    last = folder / LAST
    if not (is_whole(last) and is_whole(folder / BEST)):  # damaged, or the run was killed early
        for name in (LAST, BEST):
            (folder / name).unlink(missing_ok=True)
    with _quiet():
        processes = _Processes(threads) if several else None
        try:
            trainer = Trainer(
                accelerator=training.accelerator,
                devices=training.devices,
                strategy=processes or "auto",
                precision=training.precision,
                max_epochs=epochs or training.epochs,
                gradient_clip_val=training.clip_grad_norm,
                logger=logger,
                callbacks=callbacks,
                enable_progress_bar=progress and draws_bars(),
                enable_model_summary=False,
                use_distributed_sampler=False,  # ShuffledBatches distributes batches itself
                default_root_dir=folder,
                plugins=[WholeCheckpoints()],
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
                trainer.fit(
                    module, samples, held_out, ckpt_path=str(last) if last.exists() else None
                )
        except ProcessException as error:  # with the traceback of the process as its text
            raise FearecError(
                "a training process failed",
                str(folder),
                found=str(error).strip().splitlines()[-1],
                remedy="Without a reason it was killed, perhaps for lack of memory.",
            ) from error
    # Callbacks of other processes do not report back, so everything is read from the checkpoint.
    state = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    score = state["callbacks"][best.state_key]["best_model_score"]
    network = module.network.cpu().eval()
    with torch.inference_mode():  # an epoch's last step shows in no loss
        windows = histories.windows(train[:_CHECKED_BATCHES], config.MAX_ITEM_LIST_LENGTH)
        _check_finite("output", network(*windows), folder)
    return Fitted(
        network,
        state["epoch"] + 1,
        float(score) if validated and score is not None else None,
    )
