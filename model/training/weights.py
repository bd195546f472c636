"""Weights on disk, and warm starts from an earlier model's weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import FEARecConfig
from model.errors import ConfigError
from model.network.fearec import FEARec

ITEM_TABLE = "item_embedding.weight"


def save_weights(network: FEARec, path: Path) -> None:
    """Write a network's weights as safetensors."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def load_network(config: FEARecConfig, path: Path) -> FEARec:
    """Build the network of a configuration with the weights of a file, in eval mode."""
    network = FEARec(config)
    network.load_state_dict(load_file(path))
    return network.eval()


def warm_start(config: FEARecConfig, weights: Mapping[str, Tensor], seed: int) -> FEARec | None:
    """Build a network that starts from an earlier model's weights.

    The vocabulary is append-only, so the rows of earlier items are copied and new items keep
    their random rows.

    Args:
        config: The new network.
        weights: The earlier state dict.
        seed: Seed of the rows of new items.

    Returns:
        The network, or None if the architecture has changed and no weights fit.

    Raises:
        ConfigError: the earlier vocabulary is the larger one.
    """
    torch.manual_seed(seed)
    network = FEARec(config)
    state = network.state_dict()
    old = weights[ITEM_TABLE]
    if len(old) > config.n_items:
        raise ConfigError(
            "the earlier model has more items than the vocabulary",
            "warm start",
            expected=f"at most {config.n_items} rows",
            found=f"{len(old)} rows",
            remedy="Set train.warm_start = false if the interactions were rebuilt.",
        )
    shapes = {name: value.shape for name, value in state.items() if name != ITEM_TABLE}
    if shapes != {name: value.shape for name, value in weights.items() if name != ITEM_TABLE}:
        return None
    with torch.no_grad():
        for name, value in weights.items():
            state[name][: len(value)] = value
    return network
