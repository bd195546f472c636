"""Small event histories, and what is expected of them, by walking."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from model.training.histories import EventHistories

users_of_items = st.lists(
    st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=1, max_size=8
)


def histories_of(users: list[list[int]]) -> EventHistories:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in users])])
    flat = [item for items in users for item in items]
    return EventHistories(torch.tensor(flat, dtype=torch.int32), torch.from_numpy(offsets))


def targets_of(histories: EventHistories) -> Tensor:
    """Every position but each user's first."""
    positions = torch.arange(len(histories.items))
    return positions[~torch.isin(positions, histories.offsets)]


def prefix(users: list[list[int]], position: int) -> list[int]:
    """The items before a flat position, by walking."""
    for items in users:
        if position < len(items):
            return items[:position]
        position -= len(items)
    raise AssertionError
