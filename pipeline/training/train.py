"""Stage: train the network on the prepared sequences, then refit it on all of them."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file

from model.config import FEARecConfig, TrainingConfig
from model.network.fearec import FEARec
from model.training.task import TrainingTask
from model.training.trainer import Fitted, fit
from model.training.weights import load_network, save_weights, warm_start
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, WEIGHTS, Bundle
from pipeline.bundles.registry import RegisteredModel, local_bundle
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.event_types_section import EventTypeSettings, Names
from pipeline.config.sections import ModelSettings, PrepareSettings
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import read_histories, read_vocabulary
from pipeline.data.splits import Split, split_histories
from pipeline.errors import InputError, naming
from pipeline.evaluation.champion import obstacle
from pipeline.results import Prepared, Trained
from pipeline.schema import ITEM_ID
from pipeline.storage.atomic_files import fsync, replace_text
from pipeline.storage.content_hash import content_hash
from pipeline.storage.locations import RunLocations

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fit:
    epoch: int
    valid_ndcg_at_10: float | None
    content_hash: str  # of the weights
    checksum: str = ""  # of the three above: a damaged epoch would train another model

    def with_checksum(self) -> "_Fit":
        values = repr((self.epoch, self.valid_ndcg_at_10, self.content_hash))
        return replace(self, checksum=hashlib.sha256(values.encode()).hexdigest())


_CODEC = TypeAdapter(_Fit)
_FINISHED = "finished.json"
# Hyper-parameters by which weights of the same shapes mean something else.
_MEANING = ("position_origin", "padding", "hidden_act")


def train(
    prepared: Prepared,
    model: ModelSettings,
    training: TrainingConfig,
    held_out: HeldOut,
    mask_seen: bool | Names,
    limits: PrepareSettings,
    event_types: EventTypeSettings,
    champion: RegisteredModel | None,
    locations: RunLocations,
    *,
    engine: EngineSettings = LOCAL,
) -> Trained:
    """Train with early stopping on NDCG@10, then again on everything for as many epochs.

    A run that was killed continues after its last epoch.

    Args:
        prepared: The data.
        model: The network.
        training: How it is trained.
        held_out: Which events the evaluated weights must not learn from.
        mask_seen: `evaluate.mask_seen`: whether validation leaves out what a user has already seen.
        limits: The filter of users and items that the data went through.
        event_types: What the types of events mean.
        champion: The model to start from; None starts anew.
        locations: The run's folders.
        engine: Where it is trained: here, or by workers of a Ray cluster.

    Raises:
        ConfigError: there is no such cluster, or it has no room.
        InputError: no user has interactions to learn from, or to be evaluated on.
        BundleError: the champion's bundle cannot be read.
    """
    seen_types = () if isinstance(mask_seen, bool) else mask_seen
    histories = read_histories(prepared.folder, event_types.inputs, seen_types)
    split = split_histories(histories, held_out, prepared)
    if not len(split.train):
        raise InputError(
            "nothing to train on",
            str(prepared.folder),
            expected="a user with at least two interactions before those held out"
            + (", the later of event_types.targets, the earlier of .inputs" if event_types else ""),
            found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
        )
    config = model.config(prepared.n_items)
    parent = _open_parent(champion, config, training, held_out, limits, prepared, locations)
    training_key = (
        config.model_dump_json(),
        json.dumps(training.result_settings(), sort_keys=True),
        repr((mask_seen, held_out)),
        event_types.model_dump_json(),
        prepared.content_hash,
        parent.model_version if parent else "",
    )
    folder = locations.training / hashlib.sha256("\n".join(training_key).encode()).hexdigest()[:12]
    weights = event_types.weights
    run = _TrainingRun(config, training, bool(mask_seen), weights, parent, folder, engine)
    with naming(folder):
        evaluated = run.fit(split.without_test(), HELD_OUT_WEIGHTS, epochs=None)
        if training.refit:
            run.fit(split.nothing_held_out(), WEIGHTS, epochs=evaluated.epoch)
        else:
            network = load_network(config, folder / HELD_OUT_WEIGHTS)
            _save_durably(network, folder / WEIGHTS)
    return Trained(
        folder,
        evaluated.epoch,
        evaluated.valid_ndcg_at_10,
        parent.model_version if parent else None,
        training.refit,
        {name: content_hash(folder / name) for name in (HELD_OUT_WEIGHTS, WEIGHTS)},
    )


def _open_parent(
    champion: RegisteredModel | None,
    config: FEARecConfig,
    training: TrainingConfig,
    held_out: HeldOut,
    limits: PrepareSettings,
    prepared: Prepared,
    locations: RunLocations,
) -> Bundle | None:
    """The champion's bundle, where a warm start from it is possible and fair."""
    if champion is None:
        return None
    parent = Bundle.load(local_bundle(locations, champion))
    # What cannot be measured fairly may have learned from events that are held out now.
    why_not = obstacle(parent, held_out, prepared, limits)
    if why_not is None and not _same_items(parent, prepared):
        why_not = "its items have other indices"
    elif why_not is None and _start(config, training.seed, parent, HELD_OUT_WEIGHTS) is None:
        why_not = "it has another architecture"
    elif why_not is None:
        why_not = _other_meaning(parent, config)
    if why_not is None:
        return parent
    logger.warning("No warm start from %s: %s", parent.model_version, why_not)
    return None


def _other_meaning(parent: Bundle, config: FEARecConfig) -> str | None:
    """Which hyper-parameter gives weights of the same shapes another meaning than in the parent."""
    for name in (*_MEANING, *(["n_heads"] if config.dual_domain else [])):
        default = FEARecConfig.model_fields[name].default
        before, now = parent.description.hyper_parameters.get(name, default), getattr(config, name)
        if before != now:
            return f"its model.{name} is {before}, not {now}"
    return None


@dataclass(frozen=True)
class _TrainingRun:
    """Trains in a folder named for all that training depends on.

    Checkpoints of a run with other inputs are therefore never resumed.
    """

    config: FEARecConfig
    training: TrainingConfig
    mask_seen: bool
    weights: Mapping[str, float]  # of types of events
    parent: Bundle | None
    folder: Path
    engine: EngineSettings

    def fit(self, split: Split, weights: str, epochs: int | None) -> _Fit:
        """Train once, unless it was finished before; a warm start takes the parent's `weights`."""
        folder = self.folder / Path(weights).stem
        finished = _read_finished(folder / _FINISHED, self.folder / weights)
        if finished:
            return finished
        start = None
        if self.parent:
            start = _start(self.config, self.training.seed, self.parent, weights)
        task = TrainingTask(
            self.config,
            self.training,
            split.histories,
            split.train,
            split.valid,
            epochs,
            split.weights(self.weights),
            start,
            self.mask_seen,
        )
        fitted = self._fitted(task, folder)
        _save_durably(fitted.network, self.folder / weights)
        written = content_hash(self.folder / weights)
        result = _Fit(fitted.epoch, fitted.valid_ndcg_at_10, written).with_checksum()
        replace_text(folder / _FINISHED, _CODEC.dump_json(result).decode())
        return result

    def _fitted(self, task: TrainingTask, folder: Path) -> Fitted:
        if not self.engine.trains_on_ray:
            return fit(task, folder)
        from pipeline.training.on_ray import fit_on_ray

        return fit_on_ray(task, folder, self.engine)


def _read_finished(path: Path, weights: Path) -> _Fit | None:
    """What a training run left when it ended; None unless it and the weights are as written."""
    try:
        finished = _CODEC.validate_json(path.read_bytes())
        is_whole = finished == finished.with_checksum()
        return finished if is_whole and content_hash(weights) == finished.content_hash else None
    except (FileNotFoundError, ValidationError):
        return None


def _save_durably(network: FEARec, path: Path) -> None:
    """Write weights to the disk itself, before anything says that they are there."""
    save_weights(network, path)
    fsync(path)
    fsync(path.parent)


def _same_items(parent: Bundle, prepared: Prepared) -> bool:
    """Whether the parent's items have the same indices; in a rebuilt vocabulary they have not."""
    old = parent.items()[ITEM_ID].combine_chunks()
    first = read_vocabulary(prepared.folder).slice(0, len(old))
    if pa.types.is_integer(old.type) and pa.types.is_integer(first.type):
        old = old.cast(first.type)  # ids may have been widened since
    return bool(first.equals(old))


def _start(config: FEARecConfig, seed: int, parent: Bundle, weights: str) -> FEARec | None:
    return warm_start(config, load_file(parent.path / weights), seed)
