"""RecBole's params files: distributions as in hyperopt, errors with their line."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from model.config import TrainingConfig
from pipeline.config.sections import ModelSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.tuning.params_file import read_space, values_of, with_values
from pipeline.tuning.search_space import (
    Distribution,
    Space,
    count_values,
    describe,
    list_values,
    suggest,
)

SETTINGS = Settings()


def read(folder: Path, text: str, settings: Settings = SETTINGS) -> Space:
    path = folder / "hyper.test"
    path.write_text(text)
    return read_space(path, settings)


def draw(parameter: Distribution, times: int = 50) -> list[Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
    return [suggest(study.ask(), "x", parameter) for _ in range(times)]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(level)


def test_the_file_of_recboles_documentation(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        "learning_rate loguniform -8,0\n"
        "hidden_size choice [64,96,128]\n"
        "train_batch_size choice [512, 1024, 2048]\n"
        "hidden_dropout_prob quniform 0.1,0.5,0.1\n"
        "weight_decay uniform 0,0.01\n",
    )
    assert space.parameters == {
        "learning_rate": FloatDistribution(math.exp(-8), 1.0, log=True),
        "hidden_size": CategoricalDistribution((64, 96, 128)),
        "train_batch_size": CategoricalDistribution((512, 1024, 2048)),
        "hidden_dropout_prob": FloatDistribution(0.1, 0.5, step=0.1),
        "weight_decay": FloatDistribution(0.0, 0.01),
    }
    assert space.size == math.inf
    assert space.continuous == "learning_rate"


def test_fearecs_own_example_has_18_combinations(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        "\ufeff# FEARec\n\nglobal_ratio choice [0.6,0.8,1.0]\n"
        "topk_factor\tchoice  [1,3,5]   # delays\n   \nspatial_ratio choice [0.1,0.9]",
    )
    assert space.size == 18
    assert space.continuous is None
    assert space.grid == {
        "global_ratio": (0.6, 0.8, 1.0),
        "topk_factor": (1.0, 3.0, 5.0),
        "spatial_ratio": (0.1, 0.9),
    }
    assert space.places["topk_factor"] == f"{tmp_path}/hyper.test:4"


def test_values_are_of_the_type_they_are_used_in(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        "dual_domain choice [0,1]\nn_layers choice [1.0,2]\nclip_grad_norm choice [None,5]\n"
        "hidden_act choice ('gelu','relu')\n",
    )
    assert repr(space.grid) == repr(
        {
            "dual_domain": (False, True),
            "n_layers": (1, 2),
            "clip_grad_norm": (None, 5.0),
            "hidden_act": ("gelu", "relu"),
        }
    )


def test_a_value_that_needs_another_parameters_is_kept(tmp_path: Path) -> None:
    space = read(tmp_path, "n_heads choice [2,3]\nhidden_size choice [64,96]\n")
    assert space.grid["n_heads"] == (2, 3)  # 3 with 96
    with pytest.raises(ConfigError, match="divisible"):
        read(tmp_path, "n_heads choice [2,3]\n")


@given(st.floats(-20, 5), st.floats(0.01, 10))
def test_loguniform_is_the_exponential_of_uniform(low: float, width: float) -> None:
    parameter = FloatDistribution(math.exp(low), math.exp(low + width), log=True)
    logs = [math.log(value) for value in draw(parameter, 200)]
    assert all(low - 1e-9 <= value <= low + width + 1e-9 for value in logs)
    assert abs(sum(logs) / len(logs) - low - width / 2) < width / 8


def test_quniform_draws_multiples_of_its_step_as_hyperopt(tmp_path: Path) -> None:
    # hyperopt: round(uniform(low, high) / q) * q
    space = read(tmp_path, "hidden_dropout_prob quniform 0.14,0.77,0.1\n")
    parameter = space.parameters["hidden_dropout_prob"]
    expected = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert list_values(parameter) == expected
    assert count_values(parameter) == 8
    assert set(draw(parameter, 200)) == set(expected)


def test_distributions_are_described_as_in_the_resume_keys_of_earlier_searches() -> None:
    assert describe(CategoricalDistribution((0.6, None, "a"))) == "choice [0.6, None, 'a']"
    assert describe(FloatDistribution(0.2, 0.3)) == "0.2 to 0.3"
    assert describe(FloatDistribution(0.1, 0.5, step=0.1)) == "0.1 to 0.5 in steps of 0.1"
    assert describe(FloatDistribution(0.1, 1.0, log=True)) == "0.1 to 1.0, logarithmic"


def test_uniform_stays_within_its_bounds() -> None:
    values = draw(FloatDistribution(0.2, 0.3), 200)
    assert 0.2 <= min(values) < 0.21
    assert 0.29 < max(values) <= 0.3


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("topk_facter choice [1]", ["unknown hyper-parameter", "topk_facter", "mean topk_factor"]),
        ("max_item_list_length choice [9]", ["mean MAX_ITEM_LIST_LENGTH"]),
        ("n_items choice [9]", ["unknown hyper-parameter", "'n_items'"]),
        ("zzz choice [1]", ["unknown hyper-parameter", "learning_rate"]),
        ("devices choice [1,2]", ["unknown hyper-parameter"]),
        ("threads choice [1,2]", ["unknown hyper-parameter"]),
        ("topk_factor", ["unknown distribution", "choice, uniform", "found ''"]),
        ("topk_factor normal 0,1", ["unknown distribution", "'normal'"]),
        ("topk_factor choice", ["cannot read the choice"]),
        ("topk_factor choice []", ["an empty choice"]),
        ("topk_factor choice 3", ["cannot read the choice", "'3'"]),
        ("topk_factor choice [1,", ["cannot read the choice"]),
        ("topk_factor choice [[1],[2]]", ["cannot read the choice"]),
        ("topk_factor choice __import__('os').getcwd()", ["cannot read the choice"]),
        ("topk_factor choice range(1,4)", ["cannot read the choice"]),
        ("topk_factor choice [1,1.0]", ["a value is there twice"]),
        ("topk_factor choice [1,-2]", ["greater than 0", "-2"]),
        ("topk_factor choice [1,20]", ["delays, more than MAX_ITEM_LIST_LENGTH", "20"]),
        ("topk_factor choice [1,1e999]", ["finite", "inf"]),
        ("hidden_act choice ['gelu','selu']", ["'gelu'", "'selu'"]),
        ("learning_rate uniform 0.1", ["cannot read the uniform", "LOW,HIGH", "'0.1'"]),
        ("learning_rate uniform a,b", ["cannot read the uniform", "'a,b'"]),
        ("learning_rate uniform 0.1,nan", ["cannot read the uniform"]),
        ("learning_rate uniform 0.1,0.2,0.3", ["cannot read the uniform"]),
        ("learning_rate uniform 0.2,0.1", ["LOW must be below HIGH"]),
        ("learning_rate uniform -1,1", ["greater than 0", "-1"]),
        ("learning_rate loguniform 0,900", ["logarithms"]),
        ("weight_decay loguniform -900,-2", ["logarithms"]),
        ("hidden_dropout_prob quniform 0.1,0.5", ["LOW,HIGH,STEP"]),
        ("hidden_dropout_prob quniform 0.1,0.5,0", ["STEP must be above 0"]),
        ("weight_decay quniform 0,1e308,1e-300", ["STEP is too small"]),
        ("weight_decay quniform 0,1e300,1e-5", ["STEP is too small"]),
        ("hidden_dropout_prob quniform 0.1,1.0,0.1", ["less than 1", "1.0"]),
        ("n_layers uniform 1,4", ["integer"]),
        ("hidden_size quniform 64,128,0.5", ["integer", "64.5"]),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, line: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f"# space\nspatial_ratio choice [0.1]\n{line}\n")
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/hyper.test:3: ")
    assert error.value.exit_code == 2
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


def test_a_repeated_name_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hyper.test:2: .*twice.*hyper.test:1\."):
        read(tmp_path, "tau choice [1]\ntau choice [2]\n")


def test_a_file_without_any_line_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to search"):
        read(tmp_path, "# nothing\n\n")
    with pytest.raises(ConfigError, match="no such params file"):
        read_space(tmp_path / "none", SETTINGS)
    (tmp_path / "latin").write_bytes(b"tau choice ['\xe9']")
    with pytest.raises(ConfigError, match="cannot read the params file"):
        read_space(tmp_path / "latin", SETTINGS)


def test_values_go_where_they_belong_and_leave_the_rest() -> None:
    settings = Settings(
        model=ModelSettings(preset="recbole", n_layers=1), train=TrainingConfig(epochs=7)
    )
    changed = with_values(settings, {"tau": 0.5, "learning_rate": 0.01, "n_layers": 3})
    assert changed.model.config(9).n_layers == 3
    assert changed.model.config(9).tau == 0.5
    assert changed.model.preset == "recbole"
    assert (changed.train.learning_rate, changed.train.epochs) == (0.01, 7)
    assert values_of(changed, ["n_layers", "learning_rate"]) == {
        "n_layers": 3,
        "learning_rate": 0.01,
    }
    assert settings.train.learning_rate == TrainingConfig().learning_rate
