"""Training losses: next-item (CE, BPR), InfoNCE between views, frequency regulariser."""

from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor

from model.errors import ConfigError
from model.network.fearec import FEARec

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
) -> Tensor:
    """The loss of a batch, with the terms that the model's configuration names (paper, Eq. 26).

    The contrast's views go through the network in one pass; each keeps its own delays.

    Args:
        model: In train mode.
        item_seq: int64 (B, L).
        item_seq_len: int64 (B,).
        item_id: int64 (B,), the next item.
        neg_item_id: int64 (B,) or (B, sample_num), for BPR.
        same_target_seq: int64 (B, L), sequences of the same next item, for su, us and us_x.
        same_target_len: int64 (B,).

    Returns:
        A scalar.

    Raises:
        ConfigError: the configuration needs an input that was not given.
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

    loss = next_item_loss(model, output, item_id, neg_item_id)
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
    model: FEARec, output: Tensor, item_id: Tensor, neg_item_id: Tensor | None
) -> Tensor:
    """Cross-entropy over all V items, or BPR against sampled ones."""
    items = model.item_embedding.weight
    if model.config.loss_type == "CE":
        if model.config.ce_chunk_size:
            chunk = model.config.ce_chunk_size
            # Its backward pass runs outside autocast.
            return ChunkedCrossEntropy.apply(output.float(), items, item_id, chunk)  # type: ignore[no-untyped-call]
        return fn.cross_entropy(output @ items.T, item_id)
    if neg_item_id is None:
        raise ConfigError("BPR needs negative items", "model.loss_type", expected="neg_item_id")
    negatives = model.item_embedding(neg_item_id.view(len(item_id), -1))  # (B, sample_num, D)
    positive = (output * model.item_embedding(item_id)).sum(-1, keepdim=True)
    negative = (negatives @ output.unsqueeze(-1)).squeeze(-1)
    # The reference's constant keeps the logarithm finite.
    return -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()


def info_nce(a: Tensor, b: Tensor, tau: float, sim: str) -> Tensor:
    """InfoNCE of two views (B, D); every other row of both is a negative (paper, Eq. 22-24)."""
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
    """Mean distance of two views' spectra over the hidden axis (paper, Eq. 25)."""
    difference = torch.fft.rfft(a.float(), norm="ortho") - torch.fft.rfft(b.float(), norm="ortho")
    return difference.abs().mean()


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy over a large catalogue, never holding more than (B, chunk) logits.

    The backward pass computes each chunk's logits again.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, items: Tensor, target: Tensor, chunk: int) -> Tensor:
        """Mean loss of (B, D) outputs over (V, D) items for (B,) targets."""
        parts = [torch.logsumexp(output @ part.T, dim=1) for part in items.split(chunk)]
        total = torch.logsumexp(torch.stack(parts), dim=0)
        ctx.save_for_backward(output, items, target, total)
        ctx.chunk = chunk
        return (total - (output * items[target]).sum(-1)).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of output and items."""
        output, items, target, total = ctx.saved_tensors
        scale = grad / len(target)
        grad_output = torch.zeros_like(output)
        grad_items = torch.empty_like(items)
        for part, grad_part in zip(
            items.split(ctx.chunk), grad_items.split(ctx.chunk), strict=True
        ):
            probs = torch.exp(output @ part.T - total[:, None]) * scale
            grad_output += probs @ part
            torch.mm(probs.T, output, out=grad_part)
        grad_output -= items[target] * scale
        grad_items.index_add_(0, target, output, alpha=-float(scale))
        return grad_output, grad_items, None, None
