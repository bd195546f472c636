"""The reference network by FFT and the fast network agree."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, example
from hypothesis import strategies as st
from torch import Tensor

from model.config import FEARecConfig
from model.export.parity import near_ties
from model.network import spectral
from model.network.attention import HybridAttention
from model.network.fearec import FEARec
from model.reference import ReferenceAttention, ReferenceFEARec
from tests.helpers.examples import few_and_many

lengths = st.integers(1, 200)
ratios = st.one_of(st.sampled_from([0.05, 0.2, 0.4, 0.6, 0.8, 1.0]), st.floats(0.01, 1.0))


def small(length: int, **changes: Any) -> FEARecConfig:
    sizes: dict[str, Any] = {"hidden_size": 8, "inner_size": 8, "n_heads": 2}
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    return FEARecConfig(n_items=23, MAX_ITEM_LIST_LENGTH=length, **{**sizes, **still, **changes})


def forms(
    config: FEARecConfig, *, seed: int, dtype: torch.dtype, spread: float = 0.3
) -> tuple[FEARec, ReferenceFEARec]:
    """Both networks with the same weights, biases and scales random too."""
    generator = torch.Generator().manual_seed(seed)
    fast, reference = FEARec(config), ReferenceFEARec(config)
    with torch.no_grad():
        for name, weight in fast.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            weight.copy_(centre + spread * torch.randn(weight.shape, generator=generator))
    reference.load_state_dict(fast.state_dict())
    return fast.to(dtype), reference.to(dtype)


def padded_batch(config: FEARecConfig, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = config.MAX_ITEM_LIST_LENGTH
    item_seq_len = torch.randint(1, length + 1, (rows,), generator=generator)
    item_seq = torch.randint(1, config.n_items, (rows, length), generator=generator)
    return item_seq.where(torch.arange(length) < item_seq_len[:, None], 0), item_seq_len


@contextmanager
def watched_margins() -> Iterator[list[float]]:
    """Collects how far apart, relatively, the K-th and (K+1)-th correlations were."""
    margins: list[float] = []
    select = spectral.select_delays

    def watch(corr: Tensor, count: int, period: int) -> Tensor:
        taken = -(-count // (corr.shape[-1] // period))
        if taken < period:
            best = corr[..., :period].topk(taken + 1).values
            gap = (best[..., -2] - best[..., -1]) / best.abs().amax(-1)
            margins.append(float(gap.min()))
        return select(corr, count, period)

    with mock.patch.object(spectral, "select_delays", watch):
        yield margins


@st.composite
def networks(draw: st.DrawFn) -> FEARecConfig:
    length = draw(st.one_of(st.integers(1, 12), st.integers(1, 60), lengths))
    factor = draw(st.floats(0.3, 3.0))
    config = small(
        length,
        n_layers=draw(st.sampled_from([1, 2, 3, 4, 5])),
        n_heads=draw(st.sampled_from([1, 2, 4])),
        global_ratio=draw(ratios),
        dual_domain=draw(st.booleans()),
        std=draw(st.booleans()),
        spatial_ratio=draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])),
        delays=draw(st.sampled_from(["batch", "sequence"])),
        position_origin=draw(st.sampled_from(["start", "end"])),
        hidden_act=draw(st.sampled_from(["gelu", "relu", "swish", "tanh", "sigmoid"])),
    )
    possible = config.model_copy(update={"topk_factor": factor}).delay_count <= length
    return config.model_copy(update={"topk_factor": factor}) if possible else config


@example(small(200, n_layers=2, dual_domain=True, std=True, spatial_ratio=0.1), 3, 1, True, 0)
@example(small(1, n_layers=5, global_ratio=0.2), 1, 1, False, 0)  # empty bands
@example(
    small(2, n_layers=4, global_ratio=0.2, dual_domain=True, std=True, spatial_ratio=0.5),
    2,
    2,
    True,
    0,
)
@example(small(51, n_layers=1, dual_domain=True, spatial_ratio=0.5), 2, 3, True, 0)
def check_the_forms_agree_in_outputs_and_gradients(
    config: FEARecConfig, views: int, rows: int, train: bool, seed: int
) -> None:
    # In float64, so that a disagreement is one of mathematics; two correct programs may still
    # part where two correlations are equal to rounding, so such batches are not judged.
    fast, reference = forms(config, seed=seed, dtype=torch.float64)
    batch = padded_batch(config, views * rows, seed)
    outputs, gradients = [], []
    with watched_margins() as margins:
        for network in (fast, reference):
            output = network.train(train)(*batch, views)
            direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).sin()
            (output.flatten() * direction).sum().backward()
            outputs.append(output.detach())
            # A form may leave out a bias that cannot matter; its gradient is 0 all the same.
            gradients.append(
                [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
            )
    assume(min(margins, default=1.0) > 1e-5)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    # Beside the largest, as some are 0 but for rounding.
    largest = max(float(gradient.abs().max()) for gradient in gradients[1])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * largest)


test_the_forms_agree_in_outputs_and_gradients, test_the_forms_agree_in_many_networks = few_and_many(
    check_the_forms_agree_in_outputs_and_gradients,
    25,
    400,
    networks(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 2**32),
)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 50, 51, 199, 200])
@pytest.mark.parametrize("ratio", [0.2, 0.6, 1.0])
def test_the_forms_agree_in_single_precision(length: int, ratio: float) -> None:
    config = small(
        length, n_layers=2, global_ratio=ratio, dual_domain=True, std=True, spatial_ratio=0.1,
        hidden_size=16,
    )  # fmt: skip
    fast, reference = forms(config, seed=length, dtype=torch.float32, spread=0.15)
    batch = padded_batch(config, 24, seed=length)
    with torch.no_grad():
        ours, expected = fast.eval()(*batch), reference.eval()(*batch)
    judged = ~near_ties(fast, batch[0], batch[1])
    assert judged.float().mean() > 0.9
    error = (ours - expected)[judged].abs().max()
    assert error <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("form", [HybridAttention, ReferenceAttention])
@pytest.mark.parametrize("train", [False, True])
def test_an_empty_band_lets_the_values_pass(form: type[HybridAttention], train: bool) -> None:
    config = small(1, n_layers=3, global_ratio=0.2)
    attention = form(config, 1).train(train)
    assert not attention.band
    hidden = torch.randn(4, 1, 8)
    mask = torch.zeros(4, 1, 1, 1)
    expected = attention.LayerNorm(attention.dense(attention.value_layer(hidden)) + hidden)
    torch.testing.assert_close(attention(hidden, mask, 1), expected)
    last = torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(attention.last_row(hidden, mask[:, 0], last, 1), expected[:, 0])
