"""Position embeddings, counted from a sequence's oldest item or from its last."""

import pytest
import torch
from torch import Tensor

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.reference import ReferenceFEARec

L = 12
FORMS = (FEARec, ReferenceFEARec)


def network(origin: str, form: type[FEARec] = FEARec, **changes: object) -> FEARec:
    torch.manual_seed(0)
    config = FEARecConfig.from_preset(
        "best", n_items=20, MAX_ITEM_LIST_LENGTH=L, hidden_size=8, inner_size=16,
        initializer_range=0.3, position_origin=origin, **changes,
    )  # fmt: skip
    return form(config).eval()


def sequences() -> tuple[Tensor, Tensor]:
    """One of every length from 1 to L."""
    items = torch.randint(1, 20, (L, L), generator=torch.Generator().manual_seed(1))
    return items.tril(), torch.arange(1, L + 1)


@pytest.mark.parametrize("form", FORMS)
def test_from_the_end_the_last_item_has_the_last_position(form: type[FEARec]) -> None:
    item_seq, item_seq_len = sequences()
    found = network("end", form)(item_seq, item_seq_len)
    for row, length in enumerate(item_seq_len.tolist()):
        start = network("start", form)
        weight = start.position_embedding.weight
        order = [(step - length) % L for step in range(L)]
        assert order[length - 1] == L - 1
        weight.data = weight.data[order]
        expected = start(item_seq[row : row + 1], item_seq_len[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], expected)
    differs = (found - network("start", form)(item_seq, item_seq_len)).abs().amax(1) > 1e-3
    assert differs.tolist() == [True] * (L - 1) + [False]  # a full sequence has no other origin


@pytest.mark.parametrize("padding", ["zero", "cyclic"])
def test_from_the_end_is_padding_on_the_left(padding: str) -> None:
    # Written out on the left, with positions as they stand there and the blocks by FFT.
    right, left = network("end", padding=padding), network("end", ReferenceFEARec, padding=padding)
    left.load_state_dict(right.state_dict())
    item_seq, item_seq_len = sequences()
    for row, length in zip(item_seq, item_seq_len.tolist(), strict=True):
        items = row[:length].tolist()
        filled = items * L if padding == "cyclic" else items + [0] * L
        # The transforms are circular: what follows the last item comes before the oldest.
        written = torch.tensor([filled[length:L] + items])
        hidden = left.LayerNorm(left.item_embedding(written) + left.position_embedding.weight)
        steps = torch.arange(L)
        sees = steps <= torch.where(steps < L - length, L, steps)[:, None]
        mask = torch.where(sees & (steps >= L - length), 0.0, -10000.0)[None]
        for block in left.item_encoder.blocks:
            hidden = block(hidden, mask, 1)
        expected = hidden[:, -1]
        torch.testing.assert_close(
            right(row[None], torch.tensor([length])), expected, rtol=1e-4, atol=1e-5
        )
