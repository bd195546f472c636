"""The point-wise feed-forward network, and its training on the CPU in blocks that stay in cache."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from model.config import FEARecConfig
from model.kernels.dropout import Dropout

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": fn.gelu,
    "relu": fn.relu,
    "swish": fn.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

BLOCK_ELEMENTS = 2**18  # of the inner layer at a time: 1 MiB of float32, within an L2 cache


class FeedForward(nn.Module):
    """Point-wise feed-forward network (paper, Eq. 19), (..., D) to (..., D)."""

    def __init__(self, config: FEARecConfig) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(config.hidden_size, config.inner_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense_2 = nn.Linear(config.inner_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        rows = hidden.flatten(0, -2)  # ONNX Runtime adds a bias within products of rows only
        if self.training and hidden.device.type == "cpu":
            rows = _Blocked.apply(  # type: ignore[no-untyped-call]
                rows,
                self.dense_1.weight,
                self.dense_1.bias,
                self.dense_2.weight,
                self.dense_2.bias,
                self.activation,
            )
        else:
            rows = self.dense_2(self.activation(self.dense_1(rows)))
        output: Tensor = self.LayerNorm(self.dropout(rows.view_as(hidden), hidden))
        return output


class _Blocked(torch.autograd.Function):
    """``dense_2(activation(dense_1(x)))``, block by block.

    The inner layer, the largest tensor of the network, is never whole in memory: the backward
    pass computes each block of it again.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, act: Activation
    ) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        ctx.act = act
        rows = max(1, BLOCK_ELEMENTS // len(w1))
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, w1, b1, w2, b2 = (t.to(dtype) for t in (x, w1, b1, w2, b2))
        out = torch.empty_like(x)
        for x_block, out_block in zip(x.split(rows), out.split(rows), strict=True):
            torch.addmm(b2, act(torch.addmm(b1, x_block, w1.T)), w2.T, out=out_block)
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        (grad,) = grads
        rows = max(1, BLOCK_ELEMENTS // len(w1))
        kept, exact = x.dtype, w1.dtype  # the weights stay exact where autocast rounds
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, w1, b1, w2, grad = (t.to(dtype) for t in (x, w1, b1, w2, grad))
        grad_x = torch.empty_like(x)
        grad_w1, grad_w2 = (torch.zeros_like(w, dtype=exact) for w in (w1, w2))
        grad_b1 = torch.zeros(len(w1), dtype=exact)
        for x_block, g_block, out in zip(
            x.split(rows), grad.split(rows), grad_x.split(rows), strict=True
        ):
            with torch.enable_grad():
                inner = torch.addmm(b1, x_block, w1.T).requires_grad_()
                active = ctx.act(inner)
            (g_inner,) = torch.autograd.grad(active, inner, g_block @ w2)
            torch.mm(g_inner, w1, out=out)
            grad_w1 += (x_block.T @ g_inner).to(exact).T  # the narrower one is transposed
            grad_w2 += (g_block.T @ active.detach()).to(exact)
            grad_b1 += g_inner.sum(0, dtype=exact)
        return grad_x.to(kept), grad_w1, grad_b1, grad_w2, grad.sum(0, dtype=exact), None
