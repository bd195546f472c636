"""Stage: train the network on the prepared sequences, then refit it on all of them."""

import hashlib
import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter
from safetensors.torch import load_file

from model.config import FEARecConfig, TrainingConfig
from model.network.fearec import FEARec
from model.training.trainer import fit
from model.training.weights import load_network, save_weights, warm_start
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, WEIGHTS, Bundle
from pipeline.bundles.registry import read_champion
from pipeline.config.settings import Settings
from pipeline.data.prepare import Prepared
from pipeline.data.prepared import read_histories, read_vocabulary
from pipeline.data.splits import Split, held_out
from pipeline.errors import InputError
from pipeline.evaluation.protocol import held_out_by, refuse_large_k
from pipeline.schema import ITEM_ID
from pipeline.storage.atomic_files import replace_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A night's weights.

    Attributes:
        folder: Holds `model.safetensors`, the weights to publish, and `held_out.safetensors`,
            those that never saw the held-out items: what is evaluated, and what the next night's
            training starts from, lest its own held-out items be known to it already.
        best_epoch: Epochs until the best validation, which the refit trains too.
        valid_ndcg_at_10: At that epoch; None where nobody has enough interactions to validate on.
        parent: The model version that training started from.
        refit: Whether the weights to publish were trained on the held-out items too.
    """

    folder: Path
    best_epoch: int
    valid_ndcg_at_10: float | None
    parent: str | None
    refit: bool


@dataclass(frozen=True)
class _Fit:
    epoch: int
    valid_ndcg_at_10: float | None


def train(settings: Settings, run_date: date, prepared: Prepared) -> Trained:
    """Train with early stopping on NDCG@10, then again on everything for as many epochs.

    A run that was killed goes on from its last epoch.

    Raises:
        InputError: no user has interactions to learn from, or to be evaluated on.
        ConfigError: the evaluation asks for more items than there are.
    """
    # What the evaluation would refuse is refused before the hours of training.
    refuse_large_k(settings.evaluate, prepared.n_items)
    split = held_out(settings, run_date, prepared, read_histories(prepared.folder))
    if not len(split.train):
        raise InputError(
            "nothing to train on",
            str(prepared.folder),
            expected="a user with at least two interactions before those held out",
            found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
        )
    config = settings.model.config(prepared.n_items)
    champion = read_champion(settings, before=run_date) if settings.train.warm_start else None
    parent = Bundle.load(champion) if champion else None
    if parent and not _same_items(parent, prepared):
        logger.warning("No warm start: items are numbered otherwise in %s", parent.model_version)
        parent = None
    if parent and held_out_by(parent.description.settings) != settings.evaluate.held_out:
        # Its evaluated weights may have learned from events that are held out tonight.
        logger.warning("No warm start: %s was evaluated by another split", parent.model_version)
        parent = None
    if parent and _start(config, settings, parent, HELD_OUT_WEIGHTS) is None:
        logger.warning("No warm start: another architecture than %s", parent.model_version)
        parent = None
    night = _Night(settings, run_date, prepared, config, parent)

    evaluated = night.fit(split.without_test(), HELD_OUT_WEIGHTS, epochs=None)
    if settings.train.refit:
        everything = Split.nothing_held_out(split.histories)
        night.fit(everything, WEIGHTS, epochs=evaluated.epoch)
    else:
        network = load_network(config, night.folder / HELD_OUT_WEIGHTS)
        save_weights(network, night.folder / WEIGHTS)
    return Trained(
        night.folder,
        evaluated.epoch,
        evaluated.valid_ndcg_at_10,
        parent.model_version if parent else None,
        settings.train.refit,
    )


@dataclass(frozen=True)
class _Night:
    settings: Settings
    run_date: date
    prepared: Prepared
    config: FEARecConfig
    parent: Bundle | None

    @property
    def folder(self) -> Path:
        """Named for all that training depends on: checkpoints of another run are not resumed."""
        parts = (
            self.config.model_dump_json(),
            self.settings.train.model_dump_json(),
            str((self.settings.evaluate.mask_seen, *self.settings.evaluate.held_out)),
            self.prepared.fingerprint,
            self.parent.model_version if self.parent else "",
        )
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return self.settings.work_dir / f"run_date={self.run_date}" / "train" / key

    def fit(self, split: Split, weights: str, epochs: int | None) -> _Fit:
        """One training run, unless it was finished before; `weights` says whose start it has."""
        codec = TypeAdapter(_Fit)
        folder = self.folder / Path(weights).stem
        finished = folder / "finished.json"
        if finished.exists():
            return codec.validate_json(finished.read_bytes())
        training: TrainingConfig = self.settings.train
        fitted = fit(
            self.config,
            training,
            split.histories,
            split.train,
            split.valid,
            folder,
            epochs=epochs,
            start=_start(self.config, self.settings, self.parent, weights) if self.parent else None,
            mask_seen=self.settings.evaluate.mask_seen,
        )
        save_weights(fitted.network, self.folder / weights)
        result = _Fit(fitted.epoch, fitted.valid_ndcg_at_10)
        replace_text(finished, codec.dump_json(result).decode())
        return result


def _same_items(parent: Bundle, prepared: Prepared) -> bool:
    """Whether the parent's items are the first of tonight's; a rebuilt vocabulary's are not."""
    old = parent.items()[ITEM_ID].combine_chunks()
    first = read_vocabulary(prepared.folder).slice(0, len(old))
    if pa.types.is_integer(old.type) and pa.types.is_integer(first.type):
        old = old.cast(first.type)  # ids widen over the nights
    return bool(first.equals(old))


def _start(config: FEARecConfig, settings: Settings, parent: Bundle, weights: str) -> FEARec | None:
    return warm_start(config, load_file(parent.path / weights), settings.train.seed)
