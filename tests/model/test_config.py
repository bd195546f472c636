"""Hyper-parameters: names, defaults, presets, refusals; and those that come from RecBole."""

import math
import pickle
from typing import Any

import pydantic
import pytest

from model.config import PRESETS, FEARecConfig, TrainingConfig
from model.errors import ConfigError, FearecError
from model.network.fearec import FEARec
from model.recbole import from_recbole

# RecBole's FEARec page, and what its yaml forgets.
PAGE: dict[str, Any] = {
    "hidden_size": 64,
    "inner_size": 256,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "loss_type": "CE",
    "lmd": 0.1,
    "lmd_sem": 0.1,
    "global_ratio": 1,
    "dual_domain": False,
    "std": False,
    "spatial_ratio": 0,
    "topk_factor": 1,
    "fredom": False,
    "fredom_type": "none",
    "contrast": "none",
    "MAX_ITEM_LIST_LENGTH": 50,
}
SCRIPT: dict[str, Any] = {
    "contrast": "us_x",
    "sim": "dot",
    "tau": 1,
    "global_ratio": 0.6,
    "dual_domain": True,
    "std": True,
    "spatial_ratio": 0.1,
}


def values(config: FEARecConfig, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def test_the_defaults_are_the_recbole_preset() -> None:
    config = FEARecConfig(n_items=10)
    assert values(config, PAGE) == PAGE
    assert config == FEARecConfig.from_preset("recbole", n_items=10)
    # Options of our own are off unless asked for.
    assert (config.delays, config.ce_chunk_size, config.sample_num) == ("batch", 0, 1)


def test_the_paper_preset_is_the_authors_script_over_the_page() -> None:
    config = FEARecConfig.from_preset("paper", n_items=10)
    assert values(config, {**PAGE, **SCRIPT}) == {**PAGE, **SCRIPT}


def test_the_best_preset_is_the_papers_architecture_trained_otherwise() -> None:
    assert set(PRESETS) == {"recbole", "paper", "best"}
    paper, best = (FEARecConfig.from_preset(name, n_items=10) for name in ("paper", "best"))
    other = {
        name for name in FEARecConfig.model_fields if getattr(paper, name) != getattr(best, name)
    }
    assert other == {"contrast", "spatial_ratio", "delays", "padding"}


def test_overrides_win_over_the_preset() -> None:
    config = FEARecConfig.from_preset("paper", n_items=10, contrast="none", tau=0.5)
    assert (config.contrast, config.tau, config.global_ratio) == ("none", 0.5, 0.6)


def test_an_unknown_preset_is_refused_by_naming_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset.*recbole or paper or best.*'papr'"):
        FEARecConfig.from_preset("papr", n_items=10)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 65}, ["hidden_size", "65", "n_heads", "2"]),
        ({"n_heads": 3}, ["hidden_size", "n_heads", "3"]),
        ({"fredom": True, "fredom_type": "us_x"}, ["fredom", "us_x", "none"]),
        ({"fredom": True, "fredom_type": "un", "contrast": "un"}, ["fredom", "'un'"]),
        ({"fredom": True, "contrast": "us_x"}, ["fredom_type"]),
        ({"topk_factor": 14.0}, ["topk_factor", "MAX_ITEM_LIST_LENGTH"]),
        ({"topk_factor": 0}, ["topk_factor"]),
        ({"n_items": 1}, ["n_items"]),
        ({"n_layers": 0}, ["n_layers"]),
        ({"MAX_ITEM_LIST_LENGTH": 0}, ["MAX_ITEM_LIST_LENGTH"]),
        ({"hidden_act": "elu"}, ["hidden_act", "gelu", "'elu'"]),
        ({"hidden_dropout_prob": 1}, ["hidden_dropout_prob"]),
        ({"attn_dropout_prob": -0.1}, ["attn_dropout_prob", "-0.1"]),
        ({"global_ratio": 1.1}, ["global_ratio", "1.1"]),
        ({"global_ratio": 0}, ["global_ratio"]),
        ({"spatial_ratio": 1.5}, ["spatial_ratio"]),
        ({"tau": 0}, ["tau"]),
        ({"tau": math.nan}, ["tau"]),
        ({"lmd": math.inf}, ["lmd"]),
        ({"lmd_sem": -1}, ["lmd_sem"]),
        ({"sim": "euclid"}, ["sim", "dot", "cos"]),
        ({"contrast": "xx"}, ["contrast", "us_x"]),
        ({"fredom_type": None}, ["fredom_type"]),
        ({"loss_type": "BCE"}, ["loss_type", "CE", "BPR"]),
        ({"sample_num": 0}, ["sample_num"]),
        ({"delays": "each"}, ["delays", "batch", "sequence"]),
        ({"layer_norm_eps": 0}, ["layer_norm_eps"]),
        ({"initializer_range": 0}, ["initializer_range"]),
        ({"hiden_size": 64}, ["hiden_size", "unknown"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_it(
    changes: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        FEARecConfig(**{"n_items": 10, **changes})
    line = str(refusal.value)
    assert [word for word in named if word not in line] == []
    assert "\n" not in line
    assert refusal.value.exit_code == 2
    assert isinstance(refusal.value, FearecError)


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"train_batch_size": 1}, {"learning_rate": 0}, {"precision": "fp8"},
     {"stopping_step": 0}, {"clip_grad_norm": 0}, {"logger": "wandb"}, {"epoch": 3}],
)  # fmt: skip
def test_training_settings_are_refused_alike(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        TrainingConfig(**changes)


@pytest.mark.parametrize("changes", [{"n_layers": 1}, {"MAX_ITEM_LIST_LENGTH": 51}, {"n_heads": 1}])
def test_what_the_reference_cannot_do_is_possible(changes: dict[str, Any]) -> None:
    FEARecConfig.from_preset("paper", n_items=10, **changes)


def test_a_configuration_is_frozen() -> None:
    config = FEARecConfig(n_items=10)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.hidden_size = 32  # type: ignore[misc]
    assert config.hidden_size == 64


@pytest.mark.parametrize(
    "config",
    [FEARecConfig.from_preset("paper", n_items=7), TrainingConfig(epochs=3, clip_grad_norm=5)],
)
def test_a_configuration_survives_pickle_and_json(config: FEARecConfig | TrainingConfig) -> None:
    assert pickle.loads(pickle.dumps(config)) == config
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("length", "factor", "count"),
    [(50, 1, 3), (50, 3, 11), (20, 1, 2), (2, 1, 1), (1, 1, 1), (1, 0.5, 1), (200, 0.1, 1)],
)
def test_the_number_of_delays_is_the_floor_of_the_log_and_at_least_one(
    length: int, factor: float, count: int
) -> None:
    config = FEARecConfig(n_items=10, MAX_ITEM_LIST_LENGTH=length, topk_factor=factor)
    assert config.delay_count == count


def test_n_items_counts_pad() -> None:
    assert FEARec(FEARecConfig(n_items=10)).item_embedding.weight.shape == (10, 64)


# RecBole's configurations


RECBOLE = {
    "hidden_size": 8,
    "inner_size": 16,
    "n_layers": 2,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 10,
    "contrast": None,
    "tau": None,
    "sim": None,
    "fredom": False,
    "fredom_type": None,
}


def recbole_weights(**changes: Any) -> dict[str, Any]:
    config = FEARecConfig(
        n_items=5, hidden_size=8, inner_size=16, MAX_ITEM_LIST_LENGTH=10, **changes
    )
    return FEARec(config).state_dict()


def test_null_contrast_and_fredom_type_mean_none() -> None:
    model = from_recbole(RECBOLE, recbole_weights(), n_items=5)
    assert (model.config.contrast, model.config.fredom_type) == ("none", "none")
    assert (model.config.n_items, model.config.hidden_size) == (5, 8)
    assert not model.training


def test_missing_keys_are_the_pages_defaults() -> None:
    sizes = {name: RECBOLE[name] for name in ("hidden_size", "inner_size", "MAX_ITEM_LIST_LENGTH")}
    model = from_recbole(sizes, recbole_weights(), n_items=5)
    assert model.config == from_recbole(RECBOLE, recbole_weights(), n_items=5).config


def test_keys_that_are_no_hyper_parameters_and_the_ramps_weights_are_ignored() -> None:
    weights = recbole_weights()
    ramp = "item_encoder.layer_ramp.hybrid_attention.query_layer.weight"
    extra = {**weights, ramp: weights["position_embedding.weight"]}
    config = {**RECBOLE, "USER_ID_FIELD": "user_id", "use_filter": None, "n_items": 99, "gpu_id": 0}
    model = from_recbole(config, extra, n_items=5)
    assert model.config.n_items == 5
    for name, value in model.state_dict().items():
        assert value.equal(weights[name])


def test_fredom_where_recbole_ignores_it_is_no_error() -> None:
    config = {**RECBOLE, "fredom": True, "fredom_type": "us", "contrast": "us"}
    assert not from_recbole(config, recbole_weights(), n_items=5).config.fredom
    config = {**RECBOLE, "fredom": True, "fredom_type": "us", "contrast": "us_x"}
    assert from_recbole(config, recbole_weights(), n_items=5).config.fredom


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        from_recbole(RECBOLE, recbole_weights(), n_items=6)
    with pytest.raises(RuntimeError, match="Missing key"):
        from_recbole({**RECBOLE, "n_layers": 3}, recbole_weights(), n_items=5)
    with pytest.raises(ConfigError, match="n_heads"):
        from_recbole({**RECBOLE, "n_heads": 3}, recbole_weights(), n_items=5)
