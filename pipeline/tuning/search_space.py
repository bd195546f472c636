"""What a search for hyper-parameters chooses from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Value = str | int | float | bool | None


class Suggests(Protocol):
    """As much of `optuna.Trial` as is needed here."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number within bounds, both included."""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"choice {list(self.values)}"

    @property
    def size(self) -> int:
        """How many."""
        return len(self.values)

    @property
    def samples(self) -> tuple[Value, ...]:
        """Values that stand for all of them where a configuration is tried."""
        return self.values

    def suggest(self, trial: Suggests, name: str) -> Value:
        """A value for a trial."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`: multiples of `step`, or any; evenly, or in their logarithm."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __str__(self) -> str:
        step = f" in steps of {self.step}" if self.step else ""
        return f"{self.low} to {self.high}{step}{', logarithmic' if self.log else ''}"

    @property
    def size(self) -> float:
        """How many: infinity without a step."""
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def values(self) -> tuple[float, ...]:
        """Each of them, where there is a step."""
        assert self.step is not None
        return tuple(clean(self.low + i * self.step) for i in range(int(self.size)))

    @property
    def samples(self) -> tuple[float, ...]:
        """Values that stand for all of them: the bounds, and one between them."""
        between = self.low + (self.step or (self.high - self.low) / math.e)  # no integer
        return tuple(sorted({self.low, min(clean(between), self.high), self.high}))

    def suggest(self, trial: Suggests, name: str) -> float:
        """A value for a trial."""
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else clean(value)


@dataclass(frozen=True)
class Space:
    """What a search chooses from.

    Attributes:
        parameters: Each hyper-parameter's distribution, in the file's order.
        places: Where each stands, as ``file:line``.
    """

    parameters: Mapping[str, Choice | Interval]
    places: Mapping[str, str]

    @property
    def size(self) -> float:
        """How many combinations; infinity where a parameter has no end of values."""
        return math.prod(each.size for each in self.parameters.values())

    @property
    def endless(self) -> str | None:
        """A parameter with no end of values, where there is one."""
        endless = (name for name, each in self.parameters.items() if each.size == math.inf)
        return next(endless, None)

    @property
    def grid(self) -> dict[str, tuple[Value, ...]]:
        """Every parameter's values; not for an endless space."""
        return {name: each.values for name, each in self.parameters.items()}

    def suggest(self, trial: Suggests) -> dict[str, Value]:
        """A value of every parameter for a trial."""
        return {name: each.suggest(trial, name) for name, each in self.parameters.items()}


def clean(multiple: float) -> float:
    """Without what makes 3 * 0.1 not 0.3."""
    return float(f"{multiple:.12g}")
