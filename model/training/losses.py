"""Training losses: next item (CE or BPR), InfoNCE between views, frequency regulariser."""

import torch
import torch.nn.functional as fn
from torch import Tensor

from model.errors import ConfigError
from model.kernels.chunked_cross_entropy import (
    chunked_cross_entropy,
    plain_cross_entropy,
    weighted_mean,
)
from model.network.fearec import FEARec
from model.training.sampled_softmax import SampledItems, sampled_cross_entropy

FREDOM_WEIGHT = 0.1  # the reference's constant


def training_loss(
    model: FEARec,
    item_seq: Tensor,
    item_seq_len: Tensor,
    item_id: Tensor,
    *,
    neg_item_id: Tensor | None = None,
    same_target_seq: Tensor | None = None,
    same_target_len: Tensor | None = None,
    weight: Tensor | None = None,
    sampled: SampledItems | None = None,
) -> Tensor:
    """The loss of a batch: the terms that the model's configuration names (paper, Eq. 26).

    All views of the contrast pass through the network together; each keeps its own delays.

    Args:
        model: In train mode.
        item_seq: int64 (B, L).
        item_seq_len: int64 (B,).
        item_id: int64 (B,), the next item.
        neg_item_id: int64 (B,) or (B, sample_num), for BPR.
        same_target_seq: int64 (B, L), other sequences with the same next item, for su, us and
            us_x.
        same_target_len: int64 (B,).
        weight: float (B,), of each sequence in the loss of the next item; None for equal ones. The
            terms of the contrast have no weights.
        sampled: Items to compare the next ones with, for `ce_samples`.

    Returns:
        A scalar.

    Raises:
        ConfigError: the configuration needs an input that is missing.
    """
    config = model.config
    sequences, lengths = [item_seq], [item_seq_len]
    if config.contrast in ("un", "us", "us_x"):  # the same sequences under another dropout
        sequences.append(item_seq)
        lengths.append(item_seq_len)
    if config.needs_same_target:
        if same_target_seq is None or same_target_len is None:
            raise ConfigError(
                "the contrast needs same-target sequences",
                "model.contrast",
                expected="same_target_seq and same_target_len",
                found=f"contrast {config.contrast!r} without them",
            )
        sequences.append(same_target_seq)
        lengths.append(same_target_len)
    views = len(sequences)
    encoded = model(torch.cat(sequences), torch.cat(lengths), views)
    output, *others = encoded.chunk(views)

    loss = next_item_loss(model, output, item_id, neg_item_id, weight, sampled)
    if config.contrast == "un":
        return loss + config.lmd * info_nce(output, others[0], config.tau, config.sim)
    if config.contrast == "su":
        return loss + config.lmd_sem * info_nce(output, others[0], config.tau, config.sim)
    if config.contrast == "us":
        augmented, same_target = others
        loss = loss + config.lmd * info_nce(output, augmented, config.tau, config.sim)
        return loss + config.lmd_sem * info_nce(output, same_target, config.tau, config.sim)
    if config.contrast == "us_x":
        augmented, same_target = others
        loss = loss + config.lmd_sem * info_nce(augmented, same_target, config.tau, config.sim)
        if config.fredom:
            pairs = {
                "un": [(output, augmented)],
                "su": [(output, same_target)],
                "us": [(output, augmented), (output, same_target)],
                "us_x": [(augmented, same_target)],
            }[config.fredom_type]
            for a, b in pairs:
                loss = loss + FREDOM_WEIGHT * spectral_distance(a, b)
    return loss


def next_item_loss(
    model: FEARec,
    output: Tensor,
    item_id: Tensor,
    neg_item_id: Tensor | None,
    weight: Tensor | None = None,
    sampled: SampledItems | None = None,
) -> Tensor:
    """The loss of predicting the next item: CE over all V items or some, or BPR.

    It is the mean over the batch; with weights the weighted mean, as that of
    `torch.nn.functional.cross_entropy` with weights of classes.
    """
    items = model.item_embedding.weight
    if model.config.loss_type == "CE":
        if model.config.ce_samples:
            if sampled is None:
                raise ConfigError(
                    "the CE needs sampled items", "model.ce_samples", expected="sampled"
                )
            return sampled_cross_entropy(output, items, item_id, sampled, weight)
        if model.config.ce_chunk_size:
            return chunked_cross_entropy(output, items, item_id, model.config.ce_chunk_size, weight)
        return plain_cross_entropy(output, items, item_id, weight)
    if neg_item_id is None:
        raise ConfigError("BPR needs negative items", "model.loss_type", expected="neg_item_id")
    negatives = model.item_embedding(neg_item_id.view(len(item_id), -1))  # (B, sample_num, D)
    positive = (output * model.item_embedding(item_id)).sum(-1, keepdim=True)
    negative = (negatives @ output.unsqueeze(-1)).squeeze(-1)
    # 1e-10, the reference's constant, keeps the logarithm finite.
    losses = -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean(-1)
    return weighted_mean(losses, weight)


def info_nce(a: Tensor, b: Tensor, tau: float, sim: str) -> Tensor:
    """InfoNCE of two views (B, D); all other rows of both are negatives (paper, Eq. 22-24)."""
    rows = torch.cat([a, b])
    if sim == "cos":
        rows = fn.normalize(rows, dim=-1, eps=1e-8)
    logits = (rows @ rows.T / tau).float()
    logits = logits.masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf
    )
    partner = torch.arange(len(rows), device=rows.device).roll(len(a))
    return fn.cross_entropy(logits, partner)


def spectral_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance between two views' spectra over the hidden axis (paper, Eq. 25)."""
    difference = torch.fft.rfft(a.float(), norm="ortho") - torch.fft.rfft(b.float(), norm="ortho")
    return difference.abs().mean()
