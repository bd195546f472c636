"""Dropout whose random bits do not cost more than the layer it follows."""

from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor, nn


class Dropout(nn.Module):
    """`torch.nn.Dropout`, several times faster on the CPU.

    There PyTorch draws a float for every element; here eight elements share one 64-bit draw. The
    probability is rounded to a multiple of 1/256, or of 1/65536 where it is not one already, and
    the kept elements are scaled by what was rounded to, so the expectation is exact.

    Args:
        p: Probability of an element to be zeroed, below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Dropout of x, any shape, plus the residual if one is given."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            dropped = fn.dropout(x, self.p, self.training)
            return dropped if residual is None else dropped + residual
        return _BitDropout.apply(x, residual, self.p)  # type: ignore[no-untyped-call]


class _BitDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, p: float) -> Tensor:
        kind = torch.int8 if (p * 256).is_integer() else torch.int16
        width = 8 * kind.itemsize
        draws = torch.empty(-(-x.numel() * width // 64), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(kind)[: x.numel()].view(x.shape)
        kept = max(1, 2**width - round(p * 2**width))
        # A float mask costs less to multiply by than a boolean one, and is written at once.
        mask = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.lt(bits, kept - 2 ** (width - 1), out=mask).mul_(2**width / kept)
        ctx.save_for_backward(mask)
        ctx.has_residual = residual is not None
        return x * mask if residual is None else torch.addcmul(residual, x, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, grads[0] if ctx.has_residual else None, None
