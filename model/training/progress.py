"""Progress of a training: a bar on a terminal, plain lines elsewhere."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

from model.progress import ProgressLines
from model.training.epoch_log import shown_metrics


class EpochBar(RichProgressBar):
    """A bar per epoch, on the standard error."""

    def __init__(self) -> None:
        super().__init__(leave=True, console_kwargs={"stderr": True})

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> Any:
        """The metrics without the logger's version number, which is always 0 here."""
        metrics = super().get_metrics(trainer, module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class TrainingLines(Callback):
    """Lines on the batches done, with the loss and metric of the last whole epoch.

    The time left is that of all epochs: early stopping may end the training sooner.
    """

    def __init__(self, doing: str) -> None:
        """Take what the lines begin with."""
        self.doing = doing

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Log the start."""
        self.lines = ProgressLines(self.doing, "batches")
        if trainer.is_global_zero:
            self.lines.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log where a line is due."""
        if not trainer.is_global_zero:
            return
        per_epoch, epochs = int(trainer.num_training_batches), trainer.max_epochs or 0
        epoch = trainer.current_epoch

        def more() -> str:
            return ", ".join([f"epoch {epoch + 1} of {epochs}", *shown_metrics(trainer)])

        self.lines(epoch * per_epoch + batch_idx + 1, epochs * per_epoch, more)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log the end."""
        if trainer.is_global_zero:
            self.lines.__exit__(None, None, None)
