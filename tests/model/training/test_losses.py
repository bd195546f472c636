"""Losses against their literal formulations."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.training.losses import info_nce, next_item_loss, spectral_distance, training_loss

V, L, D, B = 31, 10, 8, 7


def rows(seed: int, count: int = B, dim: int = D) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def literal_info_nce(z_i: Tensor, z_j: Tensor, temp: float, sim_name: str) -> Tensor:
    """RecBole's info_nce and the cross-entropy it is put in, line by line."""
    batch_size = len(z_i)
    n = 2 * batch_size
    z = torch.cat((z_i, z_j), dim=0)
    if sim_name == "cos":
        sim = nn.functional.cosine_similarity(z.unsqueeze(1), z.unsqueeze(0), dim=2) / temp
    else:
        sim = torch.mm(z, z.T) / temp
    sim_i_j = torch.diag(sim, batch_size)
    sim_j_i = torch.diag(sim, -batch_size)
    positive_samples = torch.cat((sim_i_j, sim_j_i), dim=0).reshape(n, 1)
    mask = torch.ones((n, n), dtype=torch.bool).fill_diagonal_(False)
    for i in range(batch_size):
        mask[i, batch_size + i] = False
        mask[batch_size + i, i] = False
    negative_samples = sim[mask].reshape(n, -1)
    logits = torch.cat((positive_samples, negative_samples), dim=1)
    return fn.cross_entropy(logits, torch.zeros(n, dtype=torch.int64))


@given(
    st.integers(1, 12),
    st.sampled_from([0.07, 0.5, 1.0, 3.0]),
    st.sampled_from(["dot", "cos"]),
    st.integers(0, 1000),
)
def test_info_nce_is_the_references(count: int, tau: float, sim: str, seed: int) -> None:
    pair = rows(seed, count).requires_grad_(), rows(seed + 1, count).requires_grad_()
    ours, literal = info_nce(*pair, tau, sim), literal_info_nce(*pair, tau, sim)
    torch.testing.assert_close(ours, literal, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(loss, pair) for loss in (ours, literal))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_rows_of_the_same_target_are_negatives_too() -> None:
    # Equal rows: the positive is one of 2B - 1 that look alike.
    same = torch.ones(4, D)
    assert info_nce(same, same, 1.0, "dot").item() == pytest.approx(math.log(7))


def test_spectral_distance_is_the_references() -> None:
    a, b = rows(1), rows(2)
    a_f = torch.fft.rfft(a, dim=1, norm="ortho")
    b_f = torch.fft.rfft(b, dim=1, norm="ortho")
    torch.testing.assert_close(spectral_distance(a, b), abs(a_f - b_f).flatten().mean())
    assert spectral_distance(a, a) == 0


# The terms of the whole


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def sequences() -> tuple[Tensor, Tensor]:
        lengths = torch.randint(1, L + 1, (B,), generator=generator)
        items = torch.randint(1, V, (B, L), generator=generator)
        return items.where(torch.arange(L) < lengths[:, None], 0), lengths

    item_seq, item_seq_len = sequences()
    same_target_seq, same_target_len = sequences()
    return {
        "item_seq": item_seq,
        "item_seq_len": item_seq_len,
        "item_id": torch.randint(1, V, (B,), generator=generator),
        "neg_item_id": torch.randint(1, V, (B,), generator=generator),
        "same_target_seq": same_target_seq,
        "same_target_len": same_target_len,
    }


def network(**changes: Any) -> FEARec:
    torch.manual_seed(0)
    return FEARec(
        FEARecConfig(
            **{
                "n_items": V, "MAX_ITEM_LIST_LENGTH": L, "hidden_size": D, "inner_size": 8,
                "hidden_dropout_prob": 0, "attn_dropout_prob": 0, "initializer_range": 0.3,
                "lmd": 0.3, "lmd_sem": 0.7, "tau": 0.5, **changes,
            }
        )
    )  # fmt: skip


@pytest.mark.parametrize("sim", ["dot", "cos"])
@pytest.mark.parametrize(
    ("contrast", "fredom_type"),
    [
        *((contrast, "none") for contrast in ("none", "un", "su", "us", "us_x")),
        *(("us_x", fredom_type) for fredom_type in ("un", "su", "us", "us_x")),
    ],
)
def test_the_terms_are_those_of_the_reference(contrast: str, fredom_type: str, sim: str) -> None:
    """The loss is RecBole's calculate_loss, a pass a view."""
    fredom = fredom_type != "none"
    model = network(contrast=contrast, sim=sim, fredom=fredom, fredom_type=fredom_type).train()
    given = batch()
    found = training_loss(model, **given)

    output = model(given["item_seq"], given["item_seq_len"])
    augmented = model(given["item_seq"], given["item_seq_len"])
    same = model(given["same_target_seq"], given["same_target_len"])
    expected = fn.cross_entropy(output @ model.item_embedding.weight.T, given["item_id"])
    if contrast in ["us", "un"]:
        expected = expected + 0.3 * literal_info_nce(output, augmented, 0.5, sim)
    if contrast in ["us", "su"]:
        expected = expected + 0.7 * literal_info_nce(output, same, 0.5, sim)
    if contrast == "us_x":
        expected = expected + 0.7 * literal_info_nce(augmented, same, 0.5, sim)
    spectra = [torch.fft.rfft(x, dim=1, norm="ortho") for x in (output, augmented, same)]
    if fredom_type in ["us", "un"]:
        expected = expected + 0.1 * abs(spectra[0] - spectra[1]).mean()
    if fredom_type in ["us", "su"]:
        expected = expected + 0.1 * abs(spectra[0] - spectra[2]).mean()
    if fredom_type == "us_x":
        expected = expected + 0.1 * abs(spectra[1] - spectra[2]).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_unsupervised_view_has_a_dropout_of_its_own() -> None:
    model = network(contrast="un", hidden_dropout_prob=0.5, lmd=1.0, sim="cos").train()
    given = batch()
    # With the same dropout both views would be equal rows, the least that InfoNCE can be.
    views = model(given["item_seq"], given["item_seq_len"])
    plain = network(hidden_dropout_prob=0.5).train()
    torch.manual_seed(5)
    contrast = training_loss(model, **given)
    torch.manual_seed(5)
    assert contrast - training_loss(plain, **given) > info_nce(views, views, 0.5, "cos")


def test_bpr_is_the_references_for_one_negative() -> None:
    model, given = network(loss_type="BPR").train(), batch()
    output = model(given["item_seq"], given["item_seq_len"])
    positive = (output * model.item_embedding(given["item_id"])).sum(-1)
    negative = (output * model.item_embedding(given["neg_item_id"])).sum(-1)
    expected = -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()
    torch.testing.assert_close(training_loss(model, **given), expected)


def test_bpr_of_several_negatives_is_their_mean() -> None:
    model, given = network(loss_type="BPR", sample_num=3).train(), batch()
    negatives = torch.randint(1, V, (B, 3))
    single = [training_loss(model, **{**given, "neg_item_id": negatives[:, i]}) for i in range(3)]
    together = training_loss(model, **{**given, "neg_item_id": negatives})
    torch.testing.assert_close(together, torch.stack(single).mean())


def test_bpr_is_finite_for_a_hopeless_pair() -> None:
    model, given = network(loss_type="BPR").train(), batch()
    with torch.no_grad():
        model.item_embedding.weight.mul_(1e4)
    assert torch.isfinite(training_loss(model, **given))


# Cross-entropy in chunks


def test_the_network_trains_alike_with_chunks() -> None:
    given, gradients = batch(), []
    for chunk in (0, 4):
        model = network(ce_chunk_size=chunk).train()
        training_loss(model, **given).backward()
        gradients.append([p.grad for p in model.parameters()])
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [0, 4])
@pytest.mark.parametrize("changes", [{}, {"contrast": "us_x", "fredom": True, "fredom_type": "us"}])
def test_the_loss_under_bfloat16_autocast_is_near_that_of_float32(
    chunk: int, changes: dict[str, Any]
) -> None:
    model, given = network(ce_chunk_size=chunk, **changes).train(), batch()
    exact = training_loss(model, **given)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = training_loss(model, **given)
    mixed.backward()
    assert mixed.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "changes", [{}, {"ce_chunk_size": 7}, {"loss_type": "BPR", "sample_num": 3}], ids=str
)
def test_a_sample_of_twice_the_weight_counts_as_two(changes: dict[str, Any]) -> None:
    torch.manual_seed(3)
    model = FEARec(FEARecConfig(n_items=30, MAX_ITEM_LIST_LENGTH=6, **changes))
    output, target = torch.randn(4, 64), torch.tensor([3, 9, 9, 20])
    negatives = torch.randint(1, 30, (4, 3))
    twice = torch.tensor([0, 1, 1, 2, 3])
    plain = next_item_loss(model, output[twice], target[twice], negatives[twice])
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0])
    weighted = next_item_loss(model, output, target, negatives, weight)
    torch.testing.assert_close(weighted, plain)
    unweighted = next_item_loss(model, output, target, negatives)
    equal = next_item_loss(model, output, target, negatives, torch.full((4,), 5.0))
    torch.testing.assert_close(equal, unweighted)
    assert not torch.isclose(weighted, unweighted)
