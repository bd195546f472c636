"""The point-wise feed-forward network of a block."""

from collections.abc import Mapping

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from model.config import FEARecConfig
from model.kernels.blocked_feed_forward import (
    Activation,
    blocked_feed_forward,
    plain_feed_forward,
)
from model.kernels.dropout import Dropout

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": fn.gelu,
    "relu": fn.relu,
    "swish": fn.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class FeedForward(nn.Module):
    """Two linear layers, dropout, residual and LayerNorm (paper, Eq. 19), (..., D) to (..., D)."""

    def __init__(self, config: FEARecConfig) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(config.hidden_size, config.inner_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense_2 = nn.Linear(config.inner_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        blocked = self.training and hidden.device.type == "cpu"
        rows = (blocked_feed_forward if blocked else plain_feed_forward)(
            hidden.flatten(0, -2),  # ONNX Runtime fuses a bias into two-dimensional products only
            self.dense_1.weight,
            self.dense_1.bias,
            self.dense_2.weight,
            self.dense_2.bias,
            self.activation,
        )
        output: Tensor = self.LayerNorm(self.dropout(rows.view_as(hidden), hidden))
        return output
