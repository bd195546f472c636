"""What stands after a sequence's last item: zeros, or the sequence's own items once more.

Transforms over time see the padding. A study of BSARec-type models (arXiv 2512.17442) reports
better figures with other paddings than zeros; zeros are the reference's.
"""

from typing import Literal

import torch
from torch import Tensor

Padding = Literal["zero", "cyclic", "reflect"]


def padding_index(padding: Padding, length: int) -> Tensor:
    """Which step each step of a padded sequence repeats, by the number of its items.

    ``cyclic`` begins again with the oldest item; ``reflect`` goes back from the last one, which
    is not repeated, and turns at the oldest.

    Args:
        padding: ``cyclic`` or ``reflect``.
        length: L.

    Returns:
        int64 (L + 1, L); row n is for sequences of n items, and below n all the way. Row 0 is 0.
    """
    steps = torch.arange(length)
    items = torch.arange(length + 1)[:, None]
    if padding == "cyclic":
        return steps % items.clamp(min=1)
    period = (2 * (items - 1)).clamp(min=1)
    there = steps % period
    return torch.minimum(there, period - there).where(items > 1, 0)
