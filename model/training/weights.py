"""Weights on disk, and the start of a night's training from the night before."""

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
    """A network of `config` with the weights of `path`, in eval mode."""
    network = FEARec(config)
    network.load_state_dict(load_file(path))
    return network.eval()


def warm_start(config: FEARecConfig, weights: Mapping[str, Tensor], seed: int) -> FEARec | None:
    """A network that begins from an earlier night's weights.

    The vocabulary only ever grows at its end, so old item rows are copied as they are and new
    items keep their random rows.

    Returns:
        None where the architecture has changed and nothing can be carried over.

    Raises:
        ConfigError: the earlier vocabulary is the larger one.
    """
    torch.manual_seed(seed)
    network = FEARec(config)
    state = network.state_dict()
    old = weights[ITEM_TABLE]
    if len(old) > config.n_items:
        raise ConfigError(
            "the earlier model knows more items than there are",
            "warm start",
            expected=f"at most {config.n_items} rows",
            found=f"{len(old)} rows",
            remedy="Set train.warm_start = false if the interactions were rebuilt.",
        )
    shapes = {name: value.shape for name, value in state.items() if name != ITEM_TABLE}
    if shapes != {name: value.shape for name, value in weights.items() if name != ITEM_TABLE}:
        return None
    if old.shape[1] != config.hidden_size:
        return None
    with torch.no_grad():
        for name, value in weights.items():
            state[name][: len(value)] = value
    return network
