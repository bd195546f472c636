"""Training of one network: samples, losses, the training loop, weights on disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.training.losses import training_loss

__all__ = ["training_loss"]


def __getattr__(name: str) -> Any:
    """Import torch when `training_loss` is asked for, not with the package."""
    if name == "training_loss":
        from model.training.losses import training_loss

        return training_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
