"""The results of the stages of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Trained:
    """The result of train.

    Attributes:
        folder: Holds `model.safetensors`, the weights to publish, and `held_out.safetensors`,
            those that never saw the held-out items: they are evaluated, and the next run's
            training starts from them, so that its own held-out items are new to it.
        best_epoch: Epochs until the best validation; the refit trains as many.
        valid_ndcg_at_10: NDCG@10 of that epoch; None where no user has enough interactions to
            validate on.
        parent: The model version that training started from.
        refit: Whether the weights to publish were trained on the held-out items too.
        content_hashes: sha256 of the two files, by name.
    """

    folder: Path
    best_epoch: int
    valid_ndcg_at_10: float | None
    parent: str | None
    refit: bool
    content_hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unfit:
    """In place of a result: the stage left the run without a model of its own.

    Attributes:
        reason: The error's message.
    """

    reason: str


@dataclass(frozen=True)
class Float16Check:
    """How far float16 recommendations are from float32 ones.

    Attributes:
        ndcg: NDCG@10 of each user's last item, float32's minus float16's. The refitted model has
            learned these items: only the difference counts.
        agreement: Share of the top 10 in float32 that are in float16's top 10 too.
        sequences: Users compared.
    """

    ndcg: float
    agreement: float
    sequences: int


@dataclass(frozen=True)
class Exported:
    """The result of export.

    Attributes:
        bundle: The published bundle's folder on this machine.
        model_version: Its name.
        parity_error: Largest absolute difference between the graph's and PyTorch's embeddings.
        parity_sequences: Sequences compared.
        near_ties: Sequences left out of the comparison because their delays are tied to rounding.
        fp16: How the float16 recommender compares, where one was exported.
    """

    bundle: Path
    model_version: str
    parity_error: float
    parity_sequences: int
    near_ties: int
    fp16: Float16Check | None = None


@dataclass(frozen=True)
class Gated:
    """The result of the gate: which model serves, and why.

    Attributes:
        decision: ``first``, ``promoted``, ``held``, ``forced`` or ``rolled back``.
        reasons: Why the run's own model does not serve, or would not if it were not forced.
        model_version: The model that serves.
        bundle: Its folder on this machine.
        candidate: The version of the run's own model; None of a run that trained none.
        champion: The version of the champion before this run; None of the first.
        notes: What else was found, such as how a promoted model compares with the champion.
        overruled: The version of a person's choice that the run was forced to set aside.
    """

    decision: str
    reasons: tuple[str, ...]
    model_version: str
    bundle: Path
    candidate: str | None
    champion: str | None
    notes: tuple[str, ...] = ()
    overruled: str | None = None
