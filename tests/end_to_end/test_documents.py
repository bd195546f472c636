"""The settings reference says what the settings say of themselves."""

import pytest

from tests.helpers.settings_reference import reference, settings, written


def test_the_reference_is_what_the_settings_say() -> None:
    assert written() == reference(), "run python -m tests.helpers.settings_reference"


@pytest.mark.parametrize("name", [name for name, _ in settings()])
def test_every_setting_describes_itself(name: str) -> None:
    field = dict(settings())[name]
    assert field.description
