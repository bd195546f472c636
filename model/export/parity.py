"""Parity of an exported graph with its PyTorch model."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Binomial

from model.errors import ExportParityError
from model.network.fearec import FEARec

_BY_CHANCE = 1e-3  # a share that is less probable than this is not chance
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
        repeats = length // attention.period
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

    Tied rows are too many where so many or more would come about by chance in less than one of
    1,000 samples if their true share were the largest allowed (the exact binomial test at the
    confidence of 99.9%, rows taken as independent): a small sample may hold one by chance.

    Args:
        expected: (N, D), PyTorch's.
        found: (N, D), the graph's.
        tied: bool (N,), from `near_ties`.
        max_error: The largest difference allowed on rows that are not tied.
        max_near_ties: The largest true share of tied rows allowed.

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
    n_tied = int(tied.sum())
    if _at_least(n_tied, len(tied), max_near_ties) <= _BY_CHANCE:
        raise ExportParityError(
            "too many sequences whose delays are tied to rounding",
            "encoder",
            expected=f"a share of at most {max_near_ties:g}, or a few more by chance",
            found=f"{n_tied} of {len(tied)}",
            remedy="The model may be untrained or collapsed; check its training curve.",
        )
    return Parity(worst, len(expected), n_tied)


def _at_least(hits: int, trials: int, share: float) -> float:
    """The binomial probability of so many hits or more."""
    fewer = Binomial(trials, torch.tensor(share, dtype=torch.float64)).log_prob(
        torch.arange(hits, dtype=torch.float64)
    )
    return 1 - float(fewer.exp().sum())
