"""The cross-spectrum of queries and keys summed over channels, with a hand-written gradient.

Reason: autograd would give every product of the formula a gradient tensor of its own; written
out, the backward pass touches memory half as often.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels import enabled


def plain_cross_spectrum(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The formula: ``sum_d q_d * conj(k_d)`` of spectra stored as real coefficients.

    Args:
        query: (B, R, D), the first R/2 rows cosine coefficients, the others sine coefficients.
        key: (B, R, D), likewise.

    Returns:
        Its even part (of the cosines of a delay) and its odd part (of the sines), both
        (B, R/2), summed in at least float32.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    query_cos, query_sin = query.chunk(2, dim=1)
    key_cos, key_sin = key.chunk(2, dim=1)
    even = query_cos * key_cos + query_sin * key_sin
    odd = query_sin * key_cos - query_cos * key_sin
    return even.sum(-1, dtype=exact), odd.sum(-1, dtype=exact)


def cross_spectrum(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """`plain_cross_spectrum`; where gradients are recorded, by the kernel."""
    if torch.is_grad_enabled() and enabled("cross_spectrum"):
        return _CrossSpectrum.apply(query, key)  # type: ignore[no-untyped-call]
    return plain_cross_spectrum(query, key)


class _CrossSpectrum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(query, key)
        return plain_cross_spectrum(query, key)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        query, key = ctx.saved_tensors
        even, odd = (grad.unsqueeze(-1).to(query.dtype) for grad in grads)
        query_cos, query_sin = query.chunk(2, dim=1)
        key_cos, key_sin = key.chunk(2, dim=1)
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
        cos, sin = grad_query.chunk(2, dim=1)
        torch.mul(key_cos, even, out=cos).addcmul_(key_sin, odd, value=-1)
        torch.mul(key_sin, even, out=sin).addcmul_(key_cos, odd)
        cos, sin = grad_key.chunk(2, dim=1)
        torch.mul(query_cos, even, out=cos).addcmul_(query_sin, odd)
        torch.mul(query_sin, even, out=sin).addcmul_(query_cos, odd, value=-1)
        return grad_query, grad_key
