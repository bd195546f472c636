"""One training run: Lightning with early stopping, best and last checkpoints, resume."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

from model.config import FEARecConfig, TrainingConfig
from model.fearec import FEARec
from model.module import MONITOR, FEARecModule
from model.sampling import Histories, ShuffledBatches, TrainingSet

LAST = "last.ckpt"


@dataclass(frozen=True)
class Fitted:
    """A trained network (the best epoch's weights, in eval mode) and how it came about.

    Attributes:
        network: On the CPU.
        epoch: Epochs trained when it was best (validated runs) or in all, from 1.
        valid_ndcg_at_10: Of that epoch; None without validation.
    """

    network: FEARec
    epoch: int
    valid_ndcg_at_10: float | None


def _strategy(training: TrainingConfig) -> str:
    """Lightning's name of the strategy.

    Some biases have no effect and so no gradient (a softmax's keys'), which plain DDP refuses.
    """
    if training.devices != 1 and training.strategy in ("auto", "ddp"):
        return "ddp_find_unused_parameters_true"
    return training.strategy


class _WholeCheckpoints(TorchCheckpointIO):
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Written beside the old one and renamed: never half a file, on a full disk either."""
        unfinished = Path(path).with_suffix(".part")
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        unfinished.replace(path)


class _EarlyStopping(EarlyStopping):
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """A run that had stopped early does not train on when it is resumed."""
        trainer.should_stop = self.wait_count >= self.patience


class _EpochReport(Callback):
    def __init__(self, on_epoch: Callable[[int, float], None]) -> None:
        self.on_epoch = on_epoch

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Hand the epoch's figure on; what is raised there ends the run."""
        if not trainer.sanity_checking:
            self.on_epoch(trainer.current_epoch + 1, float(trainer.callback_metrics[MONITOR]))


class _Progress(RichProgressBar):
    def get_metrics(self, trainer: Trainer, module: LightningModule) -> Any:
        """Without the logger's version number, which says nothing here."""
        metrics = super().get_metrics(trainer, module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on hardware, tips, and folders that a resumed run finds."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        # Batches are gathered from arrays in memory; worker processes would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def fit(
    config: FEARecConfig,
    training: TrainingConfig,
    histories: Histories,
    train: Tensor,
    valid: Tensor | None,
    folder: Path,
    *,
    epochs: int | None = None,
    start: FEARec | None = None,
    mask_seen: bool = True,
    progress: bool = True,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train a network; a run killed earlier in the same folder goes on where it stopped.

    Args:
        config: The network.
        training: Optimiser, epochs, batch sizes, precision, devices, seed.
        histories: All items.
        train: int64 (S,), flat positions of training targets.
        valid: int64, flat positions of validation targets; with none, all epochs are trained.
        folder: Takes checkpoints and logs.
        epochs: Instead of `training.epochs`.
        start: Weights to begin from (see `model.warm_start`); otherwise random ones.
        mask_seen: Whether validation leaves out what a user has already met.
        progress: Whether to draw a progress bar.
        on_epoch: Called after each validation with the epoch, from 1, and its NDCG@10; what it
            raises ends the run.
    """
    torch.set_float32_matmul_precision("high")
    module = FEARecModule(config, training, histories, mask_seen)
    if start is not None:
        module.network.load_state_dict(start.state_dict())
    validated = valid is not None and len(valid) > 0
    best = ModelCheckpoint(
        folder, "best", monitor=MONITOR if validated else None, mode="max",
        enable_version_counter=False,
    )  # fmt: skip
    # After `best`, whose state it holds; Lightning's own `save_last` only follows a new best.
    newest = ModelCheckpoint(folder, Path(LAST).stem, enable_version_counter=False)
    callbacks: list[Callback] = [best, newest]
    if validated:
        callbacks.append(_EarlyStopping(MONITOR, mode="max", patience=training.stopping_step))
    if on_epoch:
        callbacks.append(_EpochReport(on_epoch))
    if progress:
        callbacks.append(_Progress(leave=True))
    logger: Logger = (TensorBoardLogger if training.logger == "tensorboard" else CSVLogger)(
        str(folder), name="logs", version=0
    )
    samples: DataLoader[Any] = DataLoader(
        TrainingSet(histories, train, config),
        batch_size=None,
        sampler=ShuffledBatches(len(train), training.train_batch_size, training.seed),
        # Of its own: the loader's first draw comes after an epoch's seeding, or before in a
        # resumed run.
        generator=torch.Generator(),
    )
    held_out: DataLoader[Any] | None = None
    if validated and valid is not None:
        batches: Any = valid.split(training.eval_batch_size)
        held_out = DataLoader(batches, batch_size=None)
    last = folder / LAST
    with _quiet():
        trainer = Trainer(
            accelerator=training.accelerator,
            devices=training.devices,
            strategy=_strategy(training),
            precision=training.precision,
            max_epochs=epochs or training.epochs,
            gradient_clip_val=training.clip_grad_norm,
            logger=logger,
            callbacks=callbacks,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,  # ShuffledBatches shares batches out itself
            default_root_dir=folder,
            plugins=[_WholeCheckpoints()],
        )
        trainer.fit(module, samples, held_out, ckpt_path=str(last) if last.exists() else None)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    score = best.best_model_score
    return Fitted(
        module.network.cpu().eval(),
        state["epoch"] + 1,
        float(score) if validated and score is not None else None,
    )
