"""The network: its parameters, modes, views, delays; every hyper-parameter has an effect."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import FEARecConfig
from model.errors import ConfigError
from model.network.fearec import FEARec
from model.reference import ReferenceFEARec
from model.training.histories import EventHistories
from model.training.losses import training_loss
from model.training.samples import TrainingSet

V, L = 29, 12
SMALL: dict[str, Any] = {
    "n_items": V,
    "MAX_ITEM_LIST_LENGTH": L,
    "hidden_size": 8,
    "inner_size": 16,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
SPECTRAL: dict[str, Any] = {
    "dual_domain": True,
    "std": True,
    "spatial_ratio": 0.3,
    "global_ratio": 0.6,
}
Form = type[FEARec]
FORMS: tuple[Form, ...] = (FEARec, ReferenceFEARec)


def network(form: Form = FEARec, **changes: Any) -> FEARec:
    torch.manual_seed(0)
    return form(FEARecConfig(**{**SMALL, **changes}))


def batch(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    item_seq_len = torch.randint(1, L + 1, (rows,), generator=generator)
    item_seq = torch.randint(1, V, (rows, L), generator=generator)
    return item_seq.where(torch.arange(L) < item_seq_len[:, None], 0), item_seq_len


def test_one_parameter_is_the_item_table() -> None:
    shapes = {name: tuple(p.shape) for name, p in network().named_parameters()}
    assert [name for name, shape in shapes.items() if shape == (V, 8)] == ["item_embedding.weight"]


def test_the_spectral_constants_are_no_weights() -> None:
    model = network()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_the_initial_weights_are_the_references() -> None:
    model = FEARec(FEARecConfig(n_items=3000, initializer_range=0.05))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert abs(module.weight.std().item() - 0.05) < 0.003, name
        if isinstance(module, nn.Linear):
            assert not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all()
            assert not module.bias.any(), name
    assert model.item_embedding.weight[0].any()  # PAD's row too


@pytest.mark.parametrize("form", FORMS)
def test_the_output_is_one_vector_per_sequence(form: Form) -> None:
    output = network(form)(*batch(5))
    assert output.shape == (5, 8)
    assert output.dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changes", [{"hidden_dropout_prob": 0.5}, {"attn_dropout_prob": 0.5}])
def test_dropout_obeys_train_and_eval(form: Form, changes: dict[str, Any]) -> None:
    model, still = network(form, **SPECTRAL, **changes), network(form, **SPECTRAL)
    inputs = batch(6)
    assert not model.train()(*inputs).equal(model(*inputs))
    assert model.eval()(*inputs).equal(model(*inputs))
    torch.testing.assert_close(model(*inputs), still.eval()(*inputs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spectral", [{}, SPECTRAL])
def test_a_sequence_is_scored_alike_in_any_batch(form: Form, spectral: dict[str, Any]) -> None:
    model = network(form, **spectral).eval()
    item_seq, item_seq_len = batch(6)
    together = model(item_seq, item_seq_len)
    for i in range(6):
        alone = model(item_seq[i : i + 1], item_seq_len[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_training_shares_the_batchs_delays_unless_set_otherwise(form: Form) -> None:
    inputs = batch(16)
    inference = network(form, **SPECTRAL).eval()(*inputs)
    shared = network(form, **SPECTRAL, delays="batch").train()(*inputs)
    own = network(form, **SPECTRAL, delays="sequence").train()(*inputs)
    torch.testing.assert_close(own, inference)
    assert (shared - inference).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("spectral", [{}, SPECTRAL])
def test_views_in_one_pass_are_separate_passes(
    form: Form, views: int, spectral: dict[str, Any]
) -> None:
    model = network(form, **spectral).train()
    groups = [batch(3, seed) for seed in range(views)]
    item_seq, item_seq_len = (torch.cat(parts) for parts in zip(*groups, strict=True))
    together = model(item_seq, item_seq_len, views)
    apart = torch.cat([model(*group) for group in groups])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    # Delays shared by all views at once would be another model.
    assert (model(item_seq, item_seq_len, 1) - together).abs().max() > 0.01


def test_items_after_the_last_are_ignored_only_if_padding() -> None:
    # Padding takes part in the transforms: the same items in a longer model differ.
    item_seq = torch.tensor([[3, 5, 7] + [0] * (L - 3)])
    model = network().eval()
    first = model(item_seq, torch.tensor([3]))
    assert not torch.allclose(first, model(item_seq, torch.tensor([2])))
    item_seq[0, -1] = 9
    assert not torch.allclose(first, model(item_seq, torch.tensor([3])))


# Every hyper-parameter

HISTORIES = EventHistories(
    torch.randint(1, V - 3, (120,), generator=torch.Generator().manual_seed(3), dtype=torch.int32),
    torch.arange(0, 121, 12),
)
POSITIONS = torch.arange(120)[torch.arange(120) % 12 > 0]

CONTRASTS = ["un", "su", "us", "us_x"]
US_X: dict[str, Any] = {"contrast": "us_x", "hidden_dropout_prob": 0.2}
FIELDS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    # name: (a configuration in which it acts, values that must all tell apart)
    "n_items": ({}, [V, V + 1]),
    "MAX_ITEM_LIST_LENGTH": ({}, [L, L + 1]),
    "n_layers": ({}, [1, 2, 3]),
    "n_heads": ({"dual_domain": True, "spatial_ratio": 0.5}, [1, 2, 4]),
    "hidden_size": ({}, [8, 16]),
    "inner_size": ({}, [16, 24]),
    "hidden_dropout_prob": ({}, [0.0, 0.5]),
    "attn_dropout_prob": ({"dual_domain": True, "spatial_ratio": 0.5}, [0.0, 0.5]),
    "hidden_act": ({}, ["gelu", "relu", "swish", "tanh", "sigmoid"]),
    "layer_norm_eps": ({}, [1e-12, 1e-2]),
    "initializer_range": ({}, [0.3, 0.02]),
    "global_ratio": ({}, [1.0, 0.8, 0.6]),
    "dual_domain": ({"spatial_ratio": 0.5}, [False, True]),
    "std": ({"dual_domain": True, "spatial_ratio": 0.5, "global_ratio": 0.6}, [False, True]),
    "spatial_ratio": ({"dual_domain": True}, [0.0, 0.1, 1.0]),
    "topk_factor": ({}, [1, 2]),
    "delays": ({}, ["batch", "sequence"]),
    "padding": ({}, ["zero", "cyclic", "reflect"]),
    "position_origin": ({}, ["start", "end"]),
    "loss_type": ({}, ["CE", "BPR"]),
    "sample_num": ({"loss_type": "BPR"}, [1, 3]),
    "ce_chunk_size": ({"n_items": 100}, [0, 40, 70]),
    "ce_samples": ({"n_items": 100}, [0, 40, 70]),
    "contrast": ({"hidden_dropout_prob": 0.2}, ["none", *CONTRASTS]),
    "tau": ({"contrast": "us_x"}, [1.0, 0.5]),
    "sim": ({"contrast": "us_x"}, ["dot", "cos"]),
    "lmd": ({"contrast": "un"}, [0.1, 0.2]),
    "lmd_sem": ({"contrast": "us_x"}, [0.1, 0.2]),
    "fredom": ({**US_X, "fredom_type": "us"}, [False, True]),
    "fredom_type": ({**US_X, "fredom": True}, CONTRASTS),
}


class WidestProduct(TorchDispatchMode):
    """Notes the widest (B, width) matrix product: the logits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.width = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and len(made) == len(POSITIONS):
            self.width = max(self.width, made.shape[1])
        return made


def outcome(config: FEARecConfig) -> tuple[Any, ...]:
    """Architecture, width of the logits, loss and gradient of a step, and inference."""
    torch.manual_seed(0)
    model = FEARec(config)
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    torch.manual_seed(1)
    sample = TrainingSet(HISTORIES, POSITIONS, config)[torch.arange(len(POSITIONS))]
    with WidestProduct() as widest:
        loss = training_loss(
            model.train(),
            *sample[:3],
            neg_item_id=sample.neg_item_id,
            same_target_seq=sample.same_target_seq,
            same_target_len=sample.same_target_len,
            sampled=sample.sampled,
        )
    loss.backward()
    gradient = model.item_embedding.weight.grad
    assert gradient is not None
    with torch.no_grad():
        inference = model.eval()(*sample[:2])
    numbers = (loss.item(), gradient.norm().item(), inference.norm().item())
    return (shapes, widest.width, *(float(f"{number:.4g}") for number in numbers))


@pytest.mark.parametrize("name", FEARecConfig.model_fields)
def test_every_hyper_parameter_has_an_effect(name: str) -> None:
    assert name in FIELDS, f"say here what {name} does"
    base, values = FIELDS[name]
    outcomes = [outcome(FEARecConfig(**{**SMALL, **base, name: value})) for value in values]
    assert len(set(outcomes)) == len(values)


def test_the_outcome_of_a_configuration_is_its_own() -> None:
    # Otherwise the test above could not fail.
    config = FEARecConfig(**{**SMALL, **US_X})
    assert outcome(config) == outcome(config)


def test_fields_are_those_of_the_configuration() -> None:
    assert set(FIELDS) == set(FEARecConfig.model_fields)


def test_inputs_that_a_loss_needs_are_asked_for() -> None:
    item_seq, item_seq_len = batch(4)
    target = torch.tensor([1, 2, 3, 4])
    with pytest.raises(ConfigError, match="same_target_seq"):
        training_loss(network(contrast="us_x"), item_seq, item_seq_len, target)
    with pytest.raises(ConfigError, match="neg_item_id"):
        training_loss(network(loss_type="BPR"), item_seq, item_seq_len, target)
    with pytest.raises(ConfigError, match="sampled"):
        training_loss(network(ce_samples=3), item_seq, item_seq_len, target)
