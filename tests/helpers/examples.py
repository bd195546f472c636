"""Properties that are tried with few examples by default, and with many by ``-m slow``."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

Test = Callable[..., None]


def few_and_many(
    check: Test, few: int, many: int, *examples: SearchStrategy[Any], **named: SearchStrategy[Any]
) -> tuple[Test, Test]:
    """The test of a property with few examples, and its slow one with many.

    Args:
        check: What is to hold; its other parameters are fixtures.
        few: The examples of the first test.
        many: Those of the slow one.
        *examples: What `check` is given, as for `hypothesis.given`.
        **named: The same by name.
    """

    def test(count: int) -> Test:
        chosen = settings(max_examples=count, suppress_health_check=[HealthCheck.too_slow])
        return chosen(given(*examples, **named)(check))

    return test(few), pytest.mark.slow(test(many))
