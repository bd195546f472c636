"""Cross-entropy over a sample of the items, where the logits of all take longer than the encoder.

Reason: speed. The sum over all items is estimated from items drawn with known probabilities
(importance sampling; Bengio and Senécal, 2008). A target is in it anyway, so that its own logit has
no correction.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from model.errors import ConfigError
from model.kernels.chunked_cross_entropy import weighted_mean

_POWER = 0.75  # of an item's frequency: between by frequency and evenly


class SampledItems(NamedTuple):
    """Items drawn for a batch, with replacement."""

    item_id: Tensor  # int64 (N,)
    log_expected: Tensor  # float32 (N,), the logarithm of how often each is expected among the N


@dataclass(frozen=True)
class ItemSampler:
    """Draws items by their frequency, plus one, to the power of 0.75.

    Attributes:
        cumulative: float64 (V,), of the probabilities.
        log_expected: float32 (V,), the logarithms of how often each is expected among the N.
        count: N, the number of items drawn.
    """

    cumulative: Tensor
    log_expected: Tensor
    count: int

    @classmethod
    def build(cls, targets: Tensor, n_items: int, count: int) -> "ItemSampler":
        """Build it from the items that are targets, integer (S,), V and N.

        Raises:
            ConfigError: N is no smaller than V.
        """
        if count >= n_items:
            raise ConfigError(
                "more items are sampled than the cross-entropy over all would compare with",
                "model.ce_samples",
                expected=f"fewer than the {n_items} items, padding among them",
                found=str(count),
                remedy="Set model.ce_samples = 0.",
            )
        weights = (torch.bincount(targets, minlength=n_items) + 1).double() ** _POWER
        share = weights / weights.sum()
        return cls(share.cumsum(0), (share * count).log().float(), count)

    def sample(self) -> SampledItems:
        """Draw N items."""
        drawn = torch.rand(self.count, dtype=torch.float64) * self.cumulative[-1]
        item_id = torch.searchsorted(self.cumulative, drawn, right=True)
        item_id.clamp_(max=len(self.cumulative) - 1)
        return SampledItems(item_id, self.log_expected[item_id])


def sampled_cross_entropy(
    output: Tensor,
    items: Tensor,
    target: Tensor,
    sampled: SampledItems,
    weight: Tensor | None = None,
) -> Tensor:
    """An estimate of `plain_cross_entropy` that needs no product with all items.

    ``log(exp(s_t) + sum over sampled j != t of exp(s_j) / expected_j) - s_t``: the expectation of
    the sum is the sum over all other items, so the loss is a little too low, less with more items.

    Args:
        output: (B, D).
        items: (V, D).
        target: int64 (B,).
        sampled: N items.
        weight: float (B,), for a weighted mean; None for equal ones.

    Returns:
        A scalar.
    """
    # Together, as every one of these has a gradient of (V, D).
    rows = embedding(torch.cat([target, sampled.item_id]), items)
    wanted, drawn = rows.split([len(target), len(sampled.item_id)])
    own = (output * wanted).sum(1).float()
    others = (output @ drawn.T).float() - sampled.log_expected
    others = others.masked_fill(sampled.item_id == target[:, None], -torch.inf)
    logits = torch.cat([own[:, None], others], dim=1)
    return weighted_mean(torch.logsumexp(logits, dim=1) - own, weight)
