"""The evaluation of an exported bundle in ONNX Runtime, perhaps on later events than its own."""

import logging
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from model.config import TrainingConfig
from model.training.threads import set_threads
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import open_session
from pipeline.config.score_section import Provider
from pipeline.config.sections import EvaluateSettings
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import events_before, read_histories
from pipeline.data.splits import Split, split_histories
from pipeline.evaluation.bundle_indices import in_bundle_indices
from pipeline.evaluation.champion import inputs_of
from pipeline.evaluation.evaluate import compare
from pipeline.evaluation.evaluator import RankingProtocol
from pipeline.evaluation.protocol import check_topk, describe, rule_of
from pipeline.evaluation.rankers import ByScores
from pipeline.results import Evaluated, Prepared

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
    def load(cls, bundle: Bundle, provider: Provider) -> "BundleScorer":
        """Open a bundle on a provider."""
        bundle.check_table_size()
        table = np.fromfile(bundle.item_table, np.float32).reshape(bundle.n_items, -1)
        session = open_session(bundle.encoder, provider)
        bundle.check_description(session)
        return cls(session, torch.from_numpy(table))

    def __call__(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Scores float32 (B, V)."""
        feed = {"item_seq": item_seq.numpy(), "item_seq_len": item_seq_len.numpy()}
        (user_embedding,) = self.session.run(["user_embedding"], feed)
        return torch.from_numpy(user_embedding) @ self.items.T


def evaluate_bundle(
    bundle: Bundle,
    prepared: Prepared,
    training: TrainingConfig,
    evaluation: EvaluateSettings,
    held_out: HeldOut,
    provider: Provider,
) -> Evaluated:
    """Rank a bundle's catalogue for every user with held-out events.

    Items that the bundle does not know are left out of histories and missed in the test. A
    bundle that may have learned from held-out events is measured all the same, with a warning
    that becomes part of the protocol.

    Args:
        bundle: What to measure.
        prepared: The data.
        training: With the batch size and threads of evaluation, and the seed of the bootstrap.
        evaluation: The protocol.
        held_out: The events to rank.
        provider: The execution provider of its encoder.

    Raises:
        ConfigError: a k is larger than the bundle's catalogue, or the provider does not work.
        EmptyTestError: no user has a held-out event.
        SchemaError: the bundle's items are numbers and the events' are not, or the reverse.
    """
    set_threads(training.threads)
    check_topk(evaluation, bundle.n_items)
    histories = read_histories(prepared.folder, seen=evaluation.seen_types)
    items = in_bundle_indices(histories.items, prepared, bundle)
    histories = replace(histories, items=items, is_input=inputs_of(bundle, prepared))
    every = split_histories(histories, held_out, prepared)
    unknown = every.histories.items >= bundle.n_items
    missed, unseen = unknown & every.in_test, unknown & ~every.in_test
    split = every.without(unseen)
    scorer = BundleScorer.load(bundle, provider)
    weights = f"ONNX bundle {bundle.model_version} on {scorer.session.get_providers()[0]}"
    protocol = describe(evaluation, held_out, training.seed, bundle.max_length, weights)
    warning = _warning(held_out, prepared, bundle, every)
    if warning:
        logger.warning("%s", warning)
        protocol += f"; {warning}"
    ranking = RankingProtocol(
        bundle.n_items,
        bundle.max_length,
        bool(evaluation.mask_seen),
        evaluation.topk,
        training.eval_batch_size,
    )
    evaluated = compare(
        ByScores(scorer),
        split,
        ranking,
        evaluation.bootstrap,
        training.seed,
        learned_until=split.test_from if bundle.description.refit else split.valid_from,
        protocol=protocol,
    )
    return replace(
        evaluated,
        unknown_seen=int(unseen.sum()),
        unknown_held_out=int(missed.sum()),
    )


def _warning(held_out: HeldOut, prepared: Prepared, bundle: Bundle, split: Split) -> str | None:
    """The warning about a bundle that may have learned from held-out events."""
    known_until = bundle.description.data.last_event
    counts = events_before(prepared.folder, [known_until + timedelta(microseconds=1)])[0]
    known = int((split.begins + counts - split.test_from).clamp(min=0).sum())
    same_split = rule_of(bundle.description.settings) == held_out.rule
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
        f"{int(split.in_test.sum())} held-out events precede: the metrics on what it knows "
        "already are too good"
    )
