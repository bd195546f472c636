"""RecBole's params file (``hyper.test``): one hyper-parameter and its distribution per line.

::

    global_ratio choice [0.6,0.8,1.0]
    learning_rate loguniform -8,0       # exp of a uniform value, as in hyperopt
    hidden_dropout_prob quniform 0.1,0.5,0.1
"""

import ast
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution

from model.config import FEARecConfig, TrainingConfig
from pipeline.config.sections import ModelSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.tuning.search_space import (
    Distribution,
    Space,
    Value,
    round_off,
    sample_values,
)

# Those of the nightly run, of the data and of the machine besides.
_NOT_SEARCHED = TrainingConfig.without_effect() | {"n_items", "refit", "warm_start", "precision"}
_KNOWN = sorted({*FEARecConfig.model_fields, *TrainingConfig.model_fields} - _NOT_SEARCHED)
_BOUNDS = {"uniform": "LOW,HIGH", "quniform": "LOW,HIGH,STEP", "loguniform": "LOW,HIGH"}
_COMBINATIONS_TRIED = 10_000
_MOST_STEPS = 2.0**53  # beyond it, neighbouring multiples are one float


def with_values(settings: Settings, values: Mapping[str, Value]) -> Settings:
    """The settings with other values of some hyper-parameters, of the network or of training.

    Raises:
        ConfigError: a value or their combination is not allowed.
    """
    training = {name: values[name] for name in TrainingConfig.model_fields if name in values}
    network = {name: value for name, value in values.items() if name not in training}
    return settings.model_copy(
        update={
            "model": ModelSettings(**{**settings.model.model_dump(), **network}),
            "train": TrainingConfig(
                **{**settings.train.model_dump(exclude_unset=True), **training}
            ),
        }
    )


def values_of(settings: Settings, names: Iterable[str]) -> dict[str, Value]:
    """The settings' values of some hyper-parameters, in the type they are used in."""
    network = settings.model.config(n_items=2)
    return {
        name: getattr(settings.train if name in TrainingConfig.model_fields else network, name)
        for name in names
    }


def read_space(path: Path, settings: Settings) -> Space:
    """Read a search space and check its values against the settings.

    Raises:
        ConfigError: the file is missing or empty, a line cannot be parsed, or a value is not
            allowed whatever the other parameters are; with the line's number.
    """
    space = _parse(path)
    checked: dict[str, Distribution] = {}
    for name, parameter in space.parameters.items():
        values = tuple(_check_values(settings, space, name))
        choice = isinstance(parameter, CategoricalDistribution)
        checked[name] = CategoricalDistribution(values) if choice else parameter
    return Space(checked, space.places)


def _parse(path: Path) -> Space:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ConfigError("no such params file", str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the params file: {error}", str(path)) from None
    parameters: dict[str, Distribution] = {}
    places: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text, place = line.partition("#")[0].strip(), f"{path}:{number}"
        if not text:
            continue
        name, parameter = _parse_line(text, place)
        if name in parameters:
            raise ConfigError(
                f"{name} is defined twice", place, remedy=f"The first is at {places[name]}."
            )
        parameters[name], places[name] = parameter, place
    if not parameters:
        raise ConfigError(
            "there is nothing to search",
            str(path),
            expected="lines such as: topk_factor choice [1,3,5]",
        )
    return Space(parameters, places)


def _parse_line(text: str, place: str) -> tuple[str, Distribution]:
    name, distribution, values = [*text.split(maxsplit=2), "", ""][:3]
    if name not in _KNOWN:
        lower = {each.lower(): each for each in _KNOWN}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        raise ConfigError(
            "unknown hyper-parameter",
            place,
            found=repr(name),
            remedy=f"Did you mean {lower[near[0]]}?" if near else f"Known: {', '.join(_KNOWN)}.",
        )
    if distribution == "choice":
        return name, _parse_choice(values, place)
    if distribution in _BOUNDS:
        return name, _parse_bounds(distribution, values, place)
    raise ConfigError(
        "unknown distribution",
        place,
        expected=f"choice, {', '.join(_BOUNDS)}",
        found=repr(distribution),
    )


def _parse_choice(text: str, place: str) -> CategoricalDistribution:
    expected = "a list of numbers, strings, True, False or None, such as [0.6,0.8,1.0]"
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list | tuple) or not all(
        value is None or isinstance(value, str | int | float) for value in values
    ):
        raise ConfigError("cannot read the choice", place, expected=expected, found=repr(text))
    if not values:
        raise ConfigError("an empty choice", place, expected=expected, found=text)
    return CategoricalDistribution(tuple(values))


def _parse_bounds(distribution: str, text: str, place: str) -> FloatDistribution:
    expected = _BOUNDS[distribution]
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != expected.count(",") + 1 or not all(map(math.isfinite, numbers)):
        raise ConfigError(
            f"cannot read the {distribution}", place, expected=expected, found=repr(text)
        )
    low, high, *rest = numbers
    if low >= high:
        raise ConfigError("LOW must be below HIGH", place, expected=expected, found=repr(text))
    if distribution == "loguniform":
        # Beyond these, exp is infinite or zero.
        if not -700 < low < high < 700:
            raise ConfigError(
                "the bounds are logarithms", place, expected="e.g. -8,0", found=repr(text)
            )
        return FloatDistribution(math.exp(low), math.exp(high), log=True)
    if not rest:
        return FloatDistribution(low, high)
    step = rest[0]
    if step <= 0:
        raise ConfigError("STEP must be above 0", place, expected=expected, found=repr(text))
    if max(-low, high) / step > _MOST_STEPS:
        raise ConfigError("STEP is too small", place, expected=expected, found=repr(text))
    # As in hyperopt: multiples of the step, and the bounds are rounded to such.
    low, high = (round_off(round(bound / step) * step) for bound in (low, high))
    return FloatDistribution(low, high, step=step)


def _check_values(settings: Settings, space: Space, name: str) -> Iterator[Value]:
    """Each value in its type, checked in a combination with values of the other parameters.

    Raises:
        ConfigError: no combination with a value is allowed, or two values are equal.
    """
    samples = {other: sample_values(each) for other, each in space.parameters.items()}
    values = samples.pop(name)
    seen: set[Value] = set()
    for value in values:
        first_error: ConfigError | None = None
        combinations = (
            dict(zip(samples, rest, strict=True)) for rest in product(*samples.values())
        )
        for rest in islice(combinations, _COMBINATIONS_TRIED):
            try:
                changed = with_values(settings, {**rest, name: value})
                break
            except ConfigError as error:
                first_error = first_error or error
        else:
            assert first_error is not None
            raise ConfigError(
                f"{name}: {first_error.what}", space.places[name], first_error.expected, repr(value)
            )
        (typed,) = values_of(changed, [name]).values()
        if typed in seen:
            raise ConfigError("a value is there twice", space.places[name], found=repr(value))
        seen.add(typed)
        yield typed
