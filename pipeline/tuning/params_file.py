"""RecBole's ``hyper.test``: one hyper-parameter a line, its distribution, and what that is of.

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

from model.config import FEARecConfig, TrainingConfig
from pipeline.config.sections import ModelSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.tuning.search_space import Choice, Interval, Space, Value, clean

# What a training run needs of its machine and its night, or only shows.
_NOT_SEARCHED = {
    "n_items", "eval_batch_size", "refit", "warm_start",
    "accelerator", "devices", "strategy", "precision", "logger",
}  # fmt: skip
_KNOWN = sorted({*FEARecConfig.model_fields, *TrainingConfig.model_fields} - _NOT_SEARCHED)
_BOUNDS = {"uniform": "LOW,HIGH", "quniform": "LOW,HIGH,STEP", "loguniform": "LOW,HIGH"}
_COMBINATIONS_TRIED = 10_000


def with_values(settings: Settings, values: Mapping[str, Value]) -> Settings:
    """The settings with some hyper-parameters, of the network or of training, set otherwise.

    Raises:
        ConfigError: a value, or the combination, is refused.
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
    """Hyper-parameters as the settings have them, in the type they are used in."""
    network = settings.model.config(n_items=2)
    return {
        name: getattr(settings.train if name in TrainingConfig.model_fields else network, name)
        for name in names
    }


def read_space(path: Path, settings: Settings) -> Space:
    """Read a search space and try its values on the settings.

    Raises:
        ConfigError: the file is missing or empty, a line is not understood, or the settings
            refuse a value whatever the other parameters are; with the line's number.
    """
    space = _parse(path)
    checked: dict[str, Choice | Interval] = {}
    for name, parameter in space.parameters.items():
        taken = tuple(_tried(settings, space, name))
        checked[name] = Choice(taken) if isinstance(parameter, Choice) else parameter
    return Space(checked, space.places)


def _parse(path: Path) -> Space:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ConfigError("no such params file", str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the params file: {error}", str(path)) from None
    parameters: dict[str, Choice | Interval] = {}
    places: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text, place = line.partition("#")[0].strip(), f"{path}:{number}"
        if not text:
            continue
        name, parameter = _parse_line(text, place)
        if name in parameters:
            raise ConfigError(
                f"{name} is there twice", place, remedy=f"The first is at {places[name]}."
            )
        parameters[name], places[name] = parameter, place
    if not parameters:
        raise ConfigError(
            "there is nothing to search",
            str(path),
            expected="lines such as: topk_factor choice [1,3,5]",
        )
    return Space(parameters, places)


def _parse_line(text: str, place: str) -> tuple[str, Choice | Interval]:
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


def _parse_choice(text: str, place: str) -> Choice:
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
    return Choice(tuple(values))


def _parse_bounds(distribution: str, text: str, place: str) -> Interval:
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
        # Beyond these a float is infinite, or zero.
        if not -700 < low < high < 700:
            raise ConfigError(
                "the bounds are logarithms", place, expected="e.g. -8,0", found=repr(text)
            )
        return Interval(math.exp(low), math.exp(high), log=True)
    if not rest:
        return Interval(low, high)
    step = rest[0]
    if step <= 0:
        raise ConfigError("STEP must be above 0", place, expected=expected, found=repr(text))
    if math.isinf(max(-low, high) / step):
        raise ConfigError("STEP is too small", place, expected=expected, found=repr(text))
    # As hyperopt: multiples of the step, the bounds rounded to them.
    return Interval(clean(round(low / step) * step), clean(round(high / step) * step), step)


def _tried(settings: Settings, space: Space, name: str) -> Iterator[Value]:
    """Each value as the settings take it, in a combination with other values that they take."""
    others = {other: each.samples for other, each in space.parameters.items() if other != name}
    seen: set[Value] = set()
    for value in space.parameters[name].samples:
        refusal: ConfigError | None = None
        combinations = (dict(zip(others, rest, strict=True)) for rest in product(*others.values()))
        for rest in islice(combinations, _COMBINATIONS_TRIED):
            try:
                taken = with_values(settings, {**rest, name: value})
                break
            except ConfigError as error:
                refusal = refusal or error
        else:
            assert refusal is not None
            raise ConfigError(
                f"{name}: {refusal.what}", space.places[name], refusal.expected, repr(value)
            )
        (taken_value,) = values_of(taken, [name]).values()
        if taken_value in seen:
            raise ConfigError("a value is there twice", space.places[name], found=repr(value))
        seen.add(taken_value)
        yield taken_value
