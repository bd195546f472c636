"""What a network is trained on and how, in a form that can be sent to other processes."""

from dataclasses import dataclass

from torch import Tensor

from model.config import FEARecConfig, TrainingConfig
from model.network.fearec import FEARec
from model.training.histories import EventHistories


@dataclass(frozen=True)
class TrainingTask:
    """A network to train; it pickles.

    Attributes:
        config: The network.
        training: Optimiser, epochs, batch sizes, precision, devices, seed.
        histories: All items.
        train: int64 (S,), flat positions of training targets.
        valid: int64, flat positions of validation targets; None or empty trains all epochs.
        epochs: Overrides `training.epochs`.
        weights: float32 (S,), of the training targets in the loss of the next item; None for equal
            ones.
        start: Initial weights (see `model.training.weights`); None for new ones, whose items
            begin as `training.item_start` says.
        mask_seen: Whether validation leaves out the items that a user has already met.
    """

    config: FEARecConfig
    training: TrainingConfig
    histories: EventHistories
    train: Tensor
    valid: Tensor | None
    epochs: int | None = None
    weights: Tensor | None = None
    start: FEARec | None = None
    mask_seen: bool = True

    @property
    def is_validated(self) -> bool:
        """Whether there is anything to validate on."""
        return self.valid is not None and len(self.valid) > 0
