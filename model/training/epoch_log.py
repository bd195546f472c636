"""A line in the log per epoch of training."""

import logging

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from model.training.lightning_module import MONITOR

logger = logging.getLogger(__name__)


class EpochLog(Callback):
    """Logs each epoch's loss and validation metric.

    The records have the numbers of the epoch and of all epochs as attributes `epoch` and `epochs`,
    for those who show progress.
    """

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log the epoch, from the first process of several."""
        if not trainer.is_global_zero:
            return
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        logger.info(
            "epoch %d of %s: %s", epoch, epochs, ", ".join(shown_metrics(trainer)),
            extra={"epoch": epoch, "epochs": epochs},
        )  # fmt: skip


def shown_metrics(trainer: Trainer) -> list[str]:
    """The loss and the metric of the last epoch, as far as they are known."""
    metrics = trainer.callback_metrics
    return [f"{name} {float(metrics[name]):.4f}" for name in ("loss", MONITOR) if name in metrics]
