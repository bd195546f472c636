"""Stage: weights to a published bundle, refused unless ONNX Runtime agrees with PyTorch."""

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch

from model.cores import Threads
from model.export.files import ENCODER
from model.export.graphs import export_both
from model.export.parity import Parity, check_parity, near_ties
from model.network.fearec import FEARec
from model.training.histories import evenly_spaced
from model.training.threads import set_threads
from model.training.weights import load_network
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, ITEMS, WEIGHTS, publish_bundle
from pipeline.bundles.description import BundleDescription, DataSnapshot
from pipeline.bundles.sessions import open_session
from pipeline.bundles.transfer import upload_bundle
from pipeline.config.event_types_section import Names
from pipeline.config.export_section import ExportSettings
from pipeline.config.sections import ModelSettings
from pipeline.data.prepared import read_histories
from pipeline.errors import naming
from pipeline.results import Evaluated, Exported, Prepared, Trained
from pipeline.schema import ITEMS_FILE
from pipeline.storage.content_hash import content_hash
from pipeline.storage.leftovers import is_untouched
from pipeline.storage.locations import RunLocations
from pipeline.training.float16_check import check_float16

BATCH = 256
_STAGING = ".staging-"


def export(
    prepared: Prepared,
    trained: Trained,
    evaluated: Evaluated,
    model: ModelSettings,
    limits: ExportSettings,
    mask_seen: bool | Names,
    inputs: Names,
    locations: RunLocations,
    provenance: Mapping[str, Any],
    threads: Threads,
) -> Exported:
    """Export the run's weights, check them on real sequences, publish the bundle.

    Args:
        prepared: The vocabulary, and the sequences that are checked.
        trained: The weights.
        evaluated: Their metrics, for `bundle.json`.
        model: The network.
        limits: When an export fails the check.
        mask_seen: `evaluate.mask_seen`: whether the check of float16 leaves out what a user has
            already seen, of which it knows the items of the sequence alone.
        inputs: Types of the events that the model sees; empty for all events.
        locations: Where bundles are.
        provenance: All settings of the run, as JSON values, for `bundle.json`.
        threads: CPU threads of PyTorch.

    Raises:
        ExportParityError: the graph does not compute what PyTorch computes, or float16 computes
            something else; nothing is published.
    """
    set_threads(threads)
    config = model.config(prepared.n_items)
    network = load_network(config, trained.folder / WEIGHTS)
    folder = locations.local_models
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    # A name of its own: another machine may export for the same run date.
    prefix = f"{_STAGING}{locations.run_date}-"
    with naming(folder), TemporaryDirectory(prefix=prefix, dir=folder) as own:
        staging = Path(own) / "bundle"
        staging.mkdir()
        export_both(network, staging, fp16=limits.fp16)
        for name in (WEIGHTS, HELD_OUT_WEIGHTS):
            shutil.copyfile(trained.folder / name, staging / name)
        shutil.copyfile(prepared.folder / ITEMS_FILE, staging / ITEMS)
        parity = measure_parity(prepared, limits, inputs, network, staging / ENCODER)
        fp16 = None
        if limits.fp16:
            length = config.MAX_ITEM_LIST_LENGTH
            fp16 = check_float16(
                prepared, limits, staging, inputs, length=length, mask_seen=bool(mask_seen)
            )
        described = BundleDescription(
            model_version=_model_version(locations.run_date, staging, evaluated),
            created_at=datetime.now(UTC),
            settings=dict(provenance),
            hyper_parameters=config.model_dump(mode="json"),
            data=DataSnapshot(
                interactions_version=prepared.interactions_version,
                first_event=prepared.first_event,
                last_event=prepared.last_event,
                n_users=prepared.n_users,
                n_items=prepared.n_items - 1,
                n_interactions=prepared.n_interactions,
            ),
            metrics=asdict(evaluated),
            refit=trained.refit,
            parity={
                "max_error": parity.max_error,
                "sequences": parity.sequences,
                "near_ties": parity.near_ties,
                "fp16": asdict(fp16) if fp16 else None,
            },
            versions={name: version(name) for name in ("fearec", "torch", "onnx", "onnxscript")}
            | {"onnxruntime": onnxruntime.__version__},
            parent=trained.parent,
        )
        bundle = publish_bundle(staging, folder / described.model_version, described)
    upload_bundle(bundle, locations.warehouse.models(bundle.model_version))
    return Exported(
        bundle.path,
        bundle.model_version,
        parity.max_error,
        parity.sequences,
        parity.near_ties,
        fp16,
    )


def _remove_abandoned(models: Path) -> None:
    """Remove what killed exports left, a day old at least: younger ones may be at work."""
    for staging in models.glob(f"{_STAGING}*"):
        with suppress(FileNotFoundError):
            if is_untouched(staging, "folder"):
                shutil.rmtree(staging, ignore_errors=True)


def measure_parity(
    prepared: Prepared, limits: ExportSettings, inputs: Names, network: FEARec, encoder: Path
) -> Parity:
    """Compare an encoder file with PyTorch on the users' sequences, as they will be scored.

    Where there are too few users, sequences end anywhere in their histories.

    Raises:
        ExportParityError: they differ.
    """
    histories = read_histories(prepared.folder, inputs)
    ends = histories.offsets[1:][histories.offsets.diff() > 0]
    if len(ends) < limits.parity_sequences:
        ends = torch.arange(1, len(histories.items) + 1)
    ends = ends[histories.with_inputs(ends)]
    positions = evenly_spaced(ends, limits.parity_sequences)
    session = open_session(encoder, "cpu")
    expected, found, tied = [], [], []
    for part in positions.split(BATCH):
        item_seq, item_seq_len = histories.windows(part, network.config.MAX_ITEM_LIST_LENGTH)
        with torch.inference_mode():
            expected.append(network(item_seq, item_seq_len))
        feed = {"item_seq": item_seq.numpy(), "item_seq_len": item_seq_len.numpy()}
        found.append(torch.from_numpy(session.run(None, feed)[0]))
        tied.append(near_ties(network, item_seq, item_seq_len))
    return check_parity(
        torch.cat(expected),
        torch.cat(found),
        torch.cat(tied),
        max_error=limits.max_parity_error,
        max_near_ties=limits.max_near_ties,
    )


def _model_version(run_date: date, staging: Path, evaluated: Evaluated) -> str:
    """The run date and a hash of all that is published: the same model is the same version."""
    digest = hashlib.sha256(repr(evaluated).encode())
    for path in sorted(staging.iterdir()):
        digest.update(bytes.fromhex(content_hash(path)))
    return f"{run_date:%Y%m%d}-{digest.hexdigest()[:8]}"
