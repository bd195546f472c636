"""Paddings: the steps after a sequence's last item."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.network.padding import padding_index
from model.reference import ReferenceFEARec

L = 12


def padded(padding: str, items: list[int], length: int) -> list[int]:
    """By the definition, one item after another."""
    result = list(items)
    at, step = len(items) - 1, -1
    while len(result) < length:
        if padding == "cyclic":
            result.append(items[len(result) % len(items)])
            continue
        if len(items) > 1:
            at += step
            if at in (0, len(items) - 1):
                step = -step
        result.append(items[at])
    return result


@given(
    padding=st.sampled_from(["cyclic", "reflect"]),
    items=st.lists(st.integers(1, 99), min_size=1, max_size=L),
    more=st.integers(0, 5),
)
def test_the_items_come_again(padding: str, items: list[int], more: int) -> None:
    length = L + more
    item_seq = torch.tensor(items + [0] * (length - len(items)))
    index = padding_index(padding, length)[len(items)]  # type: ignore[arg-type]
    assert item_seq[index].tolist() == padded(padding, items, length)


def network(padding: str, form: type[FEARec] = FEARec) -> FEARec:
    torch.manual_seed(0)
    config = FEARecConfig.from_preset(
        "paper", n_items=20, MAX_ITEM_LIST_LENGTH=L, hidden_size=8, inner_size=16,
        initializer_range=0.3, padding=padding,
    )  # fmt: skip
    return form(config).eval()


@pytest.mark.parametrize("padding", ["cyclic", "reflect"])
def test_a_padded_network_is_the_zero_padded_one_on_padded_sequences(padding: str) -> None:
    # The padding is no history: attention still looks at the real items alone.
    items = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [7], list(range(1, L + 1))]
    item_seq = torch.tensor([row + [0] * (L - len(row)) for row in items])
    item_seq_len = torch.tensor([len(row) for row in items])
    written_out = torch.tensor([padded(padding, row, L) for row in items])
    for form in (FEARec, ReferenceFEARec):
        zero, other = network("zero", form), network(padding, form)
        zero.load_state_dict(other.state_dict())
        expected = zero(written_out, item_seq_len)
        torch.testing.assert_close(other(item_seq, item_seq_len), expected)
        assert not torch.allclose(zero(item_seq, item_seq_len)[:3], expected[:3])


def test_only_real_items_are_read() -> None:
    item_seq = torch.tensor([[3, 1, 4] + [0] * (L - 3)])
    model = network("cyclic")
    first = model(item_seq, torch.tensor([3]))
    item_seq[0, 3:] = 8
    torch.testing.assert_close(model(item_seq, torch.tensor([3])), first)
