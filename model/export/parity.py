"""Parity of an exported graph with its PyTorch model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ExportParityError
from model.network.fearec import FEARec

TIE = 1e-5  # relative; correct programs may rank closer correlations differently


@dataclass(frozen=True)
class Parity:
    """The result of `check_parity`.

    Attributes:
        max_error: Largest absolute difference, over rows without tied delays.
        sequences: Number of rows.
        near_ties: Number of rows with tied delays.
    """

    max_error: float
    sequences: int
    near_ties: int


@torch.no_grad()
def near_ties(network: FEARec, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """Mark sequences in which a layer's K-th and (K+1)-th correlation are equal up to rounding.

    Args:
        network: In eval mode.
        item_seq: int64 (B, L).
        item_seq_len: int64 (B,).

    Returns:
        bool (B,).
    """
    hidden = network.embed(item_seq, item_seq_len)
    length = network.config.MAX_ITEM_LIST_LENGTH
    mask = network.attention_mask(item_seq_len, length, hidden.dtype)
    tied = torch.zeros(len(item_seq), dtype=torch.bool)
    for block in network.item_encoder.blocks:
        attention = block.hybrid_attention
        repeats = network.config.MAX_ITEM_LIST_LENGTH // attention.period
        count = -(-network.config.delay_count // repeats)
        if attention.band and count < attention.period:
            corr = attention.correlation(attention.basis.T @ hidden)[:, : attention.period]
            best = corr.topk(count + 1).values[:, -2:]
            tied |= best[:, 0] - best[:, 1] <= TIE * best.abs().amax(1)
        hidden = block.forward(hidden, mask, 1)
    return tied


def check_parity(
    expected: Tensor, found: Tensor, tied: Tensor, *, max_error: float, max_near_ties: float
) -> Parity:
    """Compare the embeddings of a graph with PyTorch's.

    Args:
        expected: (N, D), PyTorch's.
        found: (N, D), the graph's.
        tied: bool (N,), from `near_ties`.
        max_error: The largest difference allowed on rows that are not tied.
        max_near_ties: The largest share of tied rows allowed.

    Raises:
        ExportParityError: either limit is exceeded, or the graph gave NaN.
    """
    error = (expected - found).abs().amax(1)
    worst = float(error[~tied].max()) if bool((~tied).any()) else 0.0
    # "Not at most", so that NaN raises too.
    if not worst <= max_error or bool(torch.isnan(found).any()):
        raise ExportParityError(
            "the exported encoder differs from the PyTorch model",
            f"sequence {int((error * ~tied).argmax())}",
            expected=f"a difference of at most {max_error:g}",
            found=f"{worst:g}",
            remedy="Do not publish this model; report the hyper-parameters and versions.",
        )
    share = float(tied.double().mean())
    if share > max_near_ties:
        raise ExportParityError(
            "too many sequences whose delays are tied to rounding",
            "encoder",
            expected=f"a share of at most {max_near_ties:g}",
            found=f"{share:g}",
            remedy="The model may be untrained or collapsed; check its training curve.",
        )
    return Parity(worst, len(expected), int(tied.sum()))
