"""Paddings of a sequence: zeros (the reference), or the sequence's own items repeated.

The transforms over time see the padding. A study of BSARec-type models (arXiv 2512.17442) reports
better metrics with other paddings than zeros.
"""

from typing import Literal

import torch
from torch import Tensor


def padding_index(padding: Literal["cyclic", "reflect"], length: int) -> Tensor:
    """The item that each step of a padded sequence repeats, by the sequence's item count.

    ``cyclic`` begins again with the oldest item; ``reflect`` walks back from the last item
    (without repeating it) and turns at the oldest.

    Args:
        padding: ``cyclic`` or ``reflect``.
        length: L.

    Returns:
        int64 (L + 1, L); row n holds indices below n, for sequences of n items. Row 0 is 0.
    """
    steps = torch.arange(length)
    items = torch.arange(length + 1)[:, None]
    if padding == "cyclic":
        return steps % items.clamp(min=1)
    period = (2 * (items - 1)).clamp(min=1)
    place = steps % period
    return torch.minimum(place, period - place).where(items > 1, 0)
