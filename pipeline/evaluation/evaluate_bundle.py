"""Measure an exported bundle in ONNX Runtime, on the events of a later night perhaps."""

import logging
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import open_session
from pipeline.config.settings import Settings
from pipeline.data.prepare import ITEMS_FILE, Prepared
from pipeline.data.prepared import events_before, read_histories, read_vocabulary
from pipeline.data.splits import Split, held_out
from pipeline.evaluation.evaluate import Evaluated, compare
from pipeline.evaluation.protocol import describe, held_out_by, refuse_large_k
from pipeline.logs.id_lists import check_same_kind
from pipeline.schema import ITEM_ID

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleScorer:
    """The encoder and the item table of a bundle, as a scorer.

    Attributes:
        session: Of `encoder.onnx`.
        items: float32 (V, D).
    """

    session: onnxruntime.InferenceSession
    items: Tensor

    @classmethod
    def load(cls, bundle: Bundle, settings: Settings) -> "BundleScorer":
        """Open a bundle on the provider of the score settings."""
        table = np.fromfile(bundle.item_table, np.float32).reshape(bundle.n_items, -1)
        session = open_session(bundle.encoder, settings.score.provider)
        return cls(session, torch.from_numpy(table))

    def __call__(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Scores float32 (B, V)."""
        feed = {"item_seq": item_seq.numpy(), "item_seq_len": item_seq_len.numpy()}
        (user_embedding,) = self.session.run(["user_embedding"], feed)
        return torch.from_numpy(user_embedding) @ self.items.T


def evaluate_bundle(
    settings: Settings, run_date: date, prepared: Prepared, bundle: Bundle
) -> Evaluated:
    """Rank a bundle's catalogue for every user with held-out events.

    Items that the bundle does not know are left out of histories and missed in the test. A
    bundle that may have learned from held-out events is measured all the same, with a warning
    that becomes part of the protocol.

    Raises:
        ConfigError: a k is larger than the bundle's catalogue, or the provider does not work.
        InputError: no user has a held-out event.
        SchemaError: the bundle's items are numbers and the events' are not, or the reverse.
    """
    refuse_large_k(settings.evaluate, bundle.n_items)
    vocabulary = _extended_vocabulary(prepared, bundle)
    every = held_out(settings, run_date, prepared, read_histories(prepared.folder, vocabulary))
    unknown = every.histories.items >= bundle.n_items
    missed = unknown & every.in_test
    split = every.without(unknown & ~missed)
    scorer = BundleScorer.load(bundle, settings)
    provider = scorer.session.get_providers()[0]
    weights = f"ONNX bundle {bundle.model_version} on {provider}"
    protocol = describe(settings, run_date, bundle.max_length, weights)
    warning = _warning(settings, prepared, bundle, every)
    if warning:
        logger.warning("%s", warning)
        protocol += f"; {warning}"
    evaluated = compare(
        settings,
        scorer,
        split,
        learned_until=split.test_from if bundle.description.refit else split.valid_from,
        n_items=bundle.n_items,
        length=bundle.max_length,
        protocol=protocol,
    )
    return replace(
        evaluated,
        unknown_seen=int((unknown & ~missed).sum()),
        unknown_held_out=int(missed.sum()),
    )


def _extended_vocabulary(prepared: Prepared, bundle: Bundle) -> pa.Array:
    """The bundle's items under their indices, then, from V on, those it does not know."""
    ids = bundle.items()[ITEM_ID].combine_chunks()
    tonight = read_vocabulary(prepared.folder)
    check_same_kind(tonight.type, str(prepared.folder / ITEMS_FILE), ids.type, str(bundle.path))
    kind = pa.int64() if pa.types.is_integer(ids.type) else pa.string()
    ids, tonight = ids.cast(kind), tonight.cast(kind)
    return pa.concat_arrays([ids, tonight.filter(pc.invert(pc.is_in(tonight, value_set=ids)))])


def _warning(settings: Settings, prepared: Prepared, bundle: Bundle, split: Split) -> str | None:
    """What to say of a bundle that may know the answers."""
    known_until = bundle.description.data.last_event
    counts = events_before(prepared.folder, [known_until + timedelta(microseconds=1)])[0]
    known = int((split.begins + counts - split.test_from).clamp(min=0).sum())
    same_split = held_out_by(bundle.description.settings) == settings.evaluate.held_out
    if not known:
        return None
    if bundle.description.refit:
        trained = "its weights were refitted on everything up to"
    elif not same_split or known_until > prepared.last_event:
        trained = "its weights were trained under another split, on events up to"
    else:
        return None
    return (
        f"WARNING: {trained} {known_until:%Y-%m-%d %H:%M} UTC, which {known} of "
        f"{int(split.in_test.sum())} held-out events precede: the figures of what it knows "
        "already are too good"
    )
