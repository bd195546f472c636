"""Cross-entropy over a large catalogue in item chunks, never holding all (B, V) logits.

Reason: memory. The plain formula keeps the logits and their gradient, 8 * B * V bytes: 2 GB at
B = 256 and V = 1,000,000. Here the backward pass recomputes the logits chunk by chunk.

Gain (`tests/benchmarks/kernels.py`, V=1,000,000, D=64, B=256, chunks of 65,536 items): a loss and
its gradient add 2.87 -> 0.42 GiB of memory, of which 0.24 are the items' gradient.
"""

from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor

from model.kernels import enabled


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of losses (B,), or ``sum(weight * losses) / sum(weight)``."""
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()


def plain_cross_entropy(
    output: Tensor, items: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The formula: mean of ``logsumexp(output @ items.T) - output . items[target]``.

    Args:
        output: (B, D).
        items: (V, D).
        target: int64 (B,).
        weight: float (B,), for a weighted mean; None for equal ones.

    Returns:
        A scalar.
    """
    logits = output @ items.T
    if weight is None:
        return fn.cross_entropy(logits, target)
    return weighted_mean(fn.cross_entropy(logits, target, reduction="none"), weight)


def chunked_cross_entropy(
    output: Tensor, items: Tensor, target: Tensor, chunk: int, weight: Tensor | None = None
) -> Tensor:
    """`plain_cross_entropy` with at most (B, chunk) logits in memory at a time; no autocast."""
    if not enabled("chunked_cross_entropy"):
        return plain_cross_entropy(output, items, target, weight)
    losses = _ChunkedCrossEntropy.apply(output.to(items.dtype), items, target, chunk)  # type: ignore[no-untyped-call]
    return weighted_mean(losses, weight)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, items: Tensor, target: Tensor, chunk: int) -> Tensor:
        # Without autocast, which is off in the backward pass: that takes the logits once more and
        # needs their own normaliser, or the probabilities do not add up to 1.
        with torch.autocast(output.device.type, enabled=False):
            parts = [torch.logsumexp(output @ part.T, dim=1) for part in items.split(chunk)]
        total = torch.logsumexp(torch.stack(parts), dim=0)
        ctx.save_for_backward(output, items, target, total)
        ctx.chunk = chunk
        return total - (output * items[target]).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        output, items, target, total = ctx.saved_tensors
        scale = grads[0][:, None]  # (B, 1)
        grad_output = torch.zeros_like(output)
        grad_items = torch.empty_like(items)
        for part, grad_part in zip(
            items.split(ctx.chunk), grad_items.split(ctx.chunk), strict=True
        ):
            probs = torch.exp(output @ part.T - total[:, None]) * scale
            grad_output += probs @ part
            torch.mm(probs.T, output, out=grad_part)
        grad_output -= items[target] * scale
        grad_items.index_add_(0, target, -scale * output)
        return grad_output, grad_items, None, None
