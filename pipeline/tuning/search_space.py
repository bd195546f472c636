"""The search space: the distribution of each hyper-parameter, as Optuna has it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial

Value = str | int | float | bool | None
Distribution = CategoricalDistribution | FloatDistribution


@dataclass(frozen=True)
class Space:
    """All that a search chooses from.

    Attributes:
        parameters: Each hyper-parameter's distribution, in the params file's order.
        places: Where each is defined, as ``file:line``.
    """

    parameters: Mapping[str, Distribution]
    places: Mapping[str, str]

    @property
    def size(self) -> float:
        """The number of combinations; infinity where a parameter is continuous."""
        return math.prod(map(count_values, self.parameters.values()))

    @property
    def continuous(self) -> str | None:
        """The first parameter with infinitely many values, if there is one."""
        return next(
            (name for name, each in self.parameters.items() if count_values(each) == math.inf), None
        )

    @property
    def grid(self) -> dict[str, tuple[Value, ...]]:
        """Every parameter's values; only where no parameter is continuous."""
        return {name: list_values(each) for name, each in self.parameters.items()}

    def suggest(self, trial: BaseTrial) -> dict[str, Value]:
        """A value of every parameter for a trial."""
        return {name: suggest(trial, name, each) for name, each in self.parameters.items()}


def count_values(distribution: Distribution) -> float:
    """The number of values of a distribution; infinity without a step."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.step is None:
        return math.inf
    return round((distribution.high - distribution.low) / distribution.step) + 1


def list_values(distribution: Distribution) -> tuple[Value, ...]:
    """All values of a choice, or of a range with a step."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    step = distribution.step
    assert step is not None
    n_values = int(count_values(distribution))
    return tuple(round_off(distribution.low + i * step) for i in range(n_values))


def sample_values(distribution: Distribution) -> tuple[Value, ...]:
    """Values to check the settings with: all of a choice; both bounds of a range and one between.

    The one between is no integer unless the step makes it one.
    """
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    low, high = distribution.low, distribution.high
    between = low + (distribution.step or (high - low) / math.e)
    return tuple(sorted({low, min(round_off(between), high), high}))


def suggest(trial: BaseTrial, name: str, distribution: Distribution) -> Value:
    """A parameter's value for a trial."""
    if isinstance(distribution, CategoricalDistribution):
        choice: Value = trial.suggest_categorical(name, distribution.choices)
        return choice
    low, high, step = distribution.low, distribution.high, distribution.step
    value = trial.suggest_float(name, low, high, step=step, log=distribution.log)
    return value if step is None else round_off(value)


def describe(distribution: Distribution) -> str:
    """The distribution in words, which are part of a search's resume key and must not change."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice {list(distribution.choices)}"
    step = f" in steps of {distribution.step}" if distribution.step else ""
    log = ", logarithmic" if distribution.log else ""
    return f"{distribution.low} to {distribution.high}{step}{log}"


def round_off(multiple: float) -> float:
    """A multiple of a step without its floating-point error: 0.3 for 3 * 0.1."""
    return float(f"{multiple:.12g}")
