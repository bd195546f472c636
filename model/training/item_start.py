"""Item embeddings to start from: users' choices of items, before any order is learned.

Items that the same users choose get embeddings that point the same way: the first right singular
vectors of the matrix of users and items, both divided by the root of how often they occur (the
spectral embedding of a bipartite graph; Dhillon, KDD 2001).
"""

import torch
from torch import Tensor

from model.network.fearec import FEARec
from model.training.histories import EventHistories, evenly_spaced, expand_ranges

_ROOT_MEAN_SQUARE = 0.05  # of an embedding's elements; random ones have `initializer_range`
_NOTHING = 1e-5  # the length of an embedding that rounding alone makes
_ITERATIONS, _MORE = 6, 8  # of the randomised decomposition, and its further vectors
_MOST_TARGETS = 10_000_000  # where there are more, some of the users are looked at


def start_items(network: FEARec, histories: EventHistories, targets: Tensor, seed: int) -> None:
    """Replace the random embeddings of the items that users chose.

    Memory: about 80 bytes per event that is looked at, and 4 (D + 9) per user of these and item.

    Args:
        network: A new one.
        histories: All items.
        targets: integer (S,), flat positions of the training targets, ascending. These and the
            inputs before a user's last one are looked at, so nothing that is held out; of more
            than ten million targets, those of some of the users.
        seed: Of the decomposition.
    """
    matrix = _choices(histories, targets, network.config.n_items)
    # The first vector says how often items occur.
    count = min(network.config.hidden_size, min(matrix.shape) - 1)
    if count < 1:
        return
    torch.manual_seed(seed)
    _, values, vectors = torch.svd_lowrank(
        matrix, min(count + 1 + _MORE, *matrix.shape), niter=_ITERATIONS
    )
    vectors = vectors[:, 1 : count + 1] * values[1 : count + 1].sqrt()
    # Turned at random, so that no element, and no head, has more of them than others.
    turn = torch.linalg.qr(torch.randn(network.config.hidden_size, count)).Q
    embeddings = vectors @ turn.T
    lengths = embeddings.norm(dim=1, keepdim=True)
    length = _ROOT_MEAN_SQUARE * network.config.hidden_size**0.5
    chosen = matrix.indices()[1].unique()
    chosen = chosen[lengths[chosen, 0] > _NOTHING]
    with torch.no_grad():
        network.item_embedding.weight[chosen] = (embeddings * (length / lengths))[chosen]


def _choices(histories: EventHistories, targets: Tensor, n_items: int) -> Tensor:
    """Which users chose which items, sparse float32 (U, V), of the users with targets."""
    users, positions = _looked_at(histories, targets)
    pairs = torch.unique(users * n_items + histories.items[positions].long())
    users, items = pairs // n_items, pairs % n_items
    weights = (users.bincount()[users] * items.bincount(minlength=n_items)[items]).rsqrt()
    return torch.sparse_coo_tensor(
        torch.stack([users, items]),
        weights,
        (int(users.max()) + 1, n_items),
        is_coalesced=True,  # `unique` has sorted them
        check_invariants=False,
    )


def _looked_at(histories: EventHistories, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The users, numbered anew, and the positions of their targets and of the inputs before them.

    Both are int64 (E,).
    """
    begins, ends = histories.offsets[:-1], histories.offsets[1:]
    place = torch.searchsorted(targets, ends.to(targets.dtype)) - 1
    last = targets[place.clamp(min=0)].long()  # each user's last target, if it is the user's
    users = ((place >= 0) & (last >= begins)).nonzero().squeeze(1)
    if len(targets) > _MOST_TARGETS:
        count = max(1, len(users) * _MOST_TARGETS // len(targets))
        users = evenly_spaced(users, count)
    numbers, positions = expand_ranges(begins[users], last[users] + 1 - begins[users])
    if histories.is_input is None:
        return numbers, positions
    place = torch.searchsorted(targets, positions.to(targets.dtype)).clamp_(max=len(targets) - 1)
    counts = histories.is_input[positions] | (targets[place] == positions)
    return numbers[counts], positions[counts]
