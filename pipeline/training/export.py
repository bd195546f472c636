"""Stage: weights to a published bundle, refused unless ONNX Runtime agrees with PyTorch."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch

from model.export.files import ENCODER
from model.export.graphs import export_both
from model.export.parity import Parity, check_parity, near_ties
from model.network.fearec import FEARec
from model.training.weights import load_network
from pipeline.bundles.bundle import (
    HELD_OUT_WEIGHTS,
    ITEMS,
    WEIGHTS,
    BundleDescription,
    DataSnapshot,
    publish_bundle,
)
from pipeline.bundles.transfer import upload_bundle
from pipeline.config.settings import Settings
from pipeline.data.prepare import ITEMS_FILE, Prepared
from pipeline.data.prepared import read_histories
from pipeline.evaluation.evaluate import Evaluated
from pipeline.training.float16_check import Float16Loss, measure_float16
from pipeline.training.train import Trained
from pipeline.warehouse.tables import models, models_folder

BATCH = 256


@dataclass(frozen=True)
class Exported:
    """The published bundle, how closely its graph follows PyTorch, and float16 follows both."""

    bundle: Path
    model_version: str
    parity_error: float
    parity_sequences: int
    near_ties: int
    fp16: Float16Loss | None = None


def export(
    settings: Settings, run_date: date, prepared: Prepared, trained: Trained, evaluated: Evaluated
) -> Exported:
    """Export the night's weights, check them on real sequences, publish the bundle.

    Raises:
        ExportParityError: the graph does not compute what PyTorch computes, or float16 computes
            something else; nothing is published.
    """
    config = settings.model.config(prepared.n_items)
    network = load_network(config, trained.folder / WEIGHTS)
    folder = models_folder(settings)
    staging = folder / f".staging-{run_date}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    export_both(network, staging, fp16=settings.export.fp16)
    for name in (WEIGHTS, HELD_OUT_WEIGHTS):
        shutil.copyfile(trained.folder / name, staging / name)
    shutil.copyfile(prepared.folder / ITEMS_FILE, staging / ITEMS)
    parity = measure_parity(settings, prepared, network, staging / ENCODER)
    fp16 = measure_float16(settings, prepared, staging) if settings.export.fp16 else None
    described = BundleDescription(
        model_version=_model_version(run_date, staging, evaluated),
        created_at=datetime.now(UTC),
        settings=settings.model_dump(mode="json"),
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
    upload_bundle(bundle, models(settings, bundle.model_version))
    return Exported(
        bundle.path,
        bundle.model_version,
        parity.max_error,
        parity.sequences,
        parity.near_ties,
        fp16,
    )


def measure_parity(
    settings: Settings, prepared: Prepared, network: FEARec, encoder: Path
) -> Parity:
    """Compare an encoder file with PyTorch on real sequences: users', as they will be scored.

    Where there are too few users, on sequences that end anywhere in their histories.

    Raises:
        ExportParityError: they differ.
    """
    histories = read_histories(prepared.folder)
    ends = histories.offsets[1:][histories.offsets.diff() > 0]
    if len(ends) < settings.export.parity_sequences:
        ends = torch.arange(1, len(histories.items) + 1)
    count = min(settings.export.parity_sequences, len(ends))
    positions = ends[torch.linspace(0, len(ends) - 1, count).long()]
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
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
        max_error=settings.export.max_parity_error,
        max_near_ties=settings.export.max_near_ties,
    )


def _model_version(run_date: date, staging: Path, evaluated: Evaluated) -> str:
    """The run date and all that is published: the same model is the same version."""
    digest = hashlib.sha256(repr(evaluated).encode())
    for path in sorted(staging.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{run_date:%Y%m%d}-{digest.hexdigest()[:8]}"
