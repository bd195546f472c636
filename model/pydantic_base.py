"""The base of every settings class: immutable, validated, without unknown keys."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.config import JsonDict

from model.errors import ConfigError

# Marks a field that changes how a result is computed, but not the result; cache keys leave it out.
NO_RESULT_CHANGE: JsonDict = {"changes_result": False}


def _one_or_more(given: Any, handler: ValidatorFunctionWrapHandler) -> int | str:
    try:
        count: int | str = handler(given)
    except ValidationError:
        count = 0
    if isinstance(count, int) and count < 1:
        raise ValueError("must be a whole number from 1 on, or auto")
    return count


CountOrAuto = Annotated[int | Literal["auto"], WrapValidator(_one_or_more)]


class Frozen(BaseModel):
    """Immutable settings; an unknown key or an invalid value raises `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    section: ClassVar[str] = "settings"  # the place named in errors

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise config_error(error, self.section) from None

    def result_settings(self) -> dict[str, Any]:
        """The settings that a result depends on, as JSON: all but those of `NO_RESULT_CHANGE`."""
        return self.model_dump(mode="json", exclude=self.without_effect())

    @classmethod
    def without_effect(cls) -> set[str]:
        """The names of the settings that change no result."""
        return {
            name
            for name, field in cls.model_fields.items()
            if field.json_schema_extra == NO_RESULT_CHANGE
        }


def config_error(error: ValidationError, where: str) -> ConfigError:
    """Turn pydantic's first error into a `ConfigError` at a setting below `where`."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    place = f"{where}.{name}" if name else where
    if first["type"] == "extra_forbidden":
        return ConfigError(
            "unknown setting",
            place,
            remedy="Check the spelling; pipeline/README.md lists every name.",
        )
    message = first["msg"].removeprefix("Value error, ")
    found = "" if isinstance(first["input"], dict) else repr(first["input"])
    return ConfigError(message, place, found=found)
