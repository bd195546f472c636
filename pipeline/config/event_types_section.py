"""`[event_types]` of `fearec.toml`: what the types of events mean for the model."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from model.pydantic_base import Frozen

Names = tuple[str, ...]


def names_of_types(given: Any) -> Names:
    """The types of events that a setting names, in the order of the alphabet.

    Raises:
        ValueError: it is neither a text nor a list of texts, or a text is empty.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError('must be a type of events or a list of types, such as ["purchase"]')
    if not all(name.strip() for name in names):
        raise ValueError("must not have an empty type of events")
    return tuple(sorted(set(names)))


class EventTypeSettings(Frozen):
    """Which types of events the model sees, which it predicts, and how much each of these counts.

    Which of them make an item one that the user has seen, `score.exclude_seen` says.
    """

    section = "event_types"

    inputs: Names = Field(
        (),
        description="types of the events that the model sees in a history, such as "
        '`["view", "purchase"]`; default all events',
    )
    targets: Names = Field(
        (),
        description="types of the events that the model is trained to predict, and by which it is "
        "evaluated; default all events",
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="weights of targets in the loss by type, such as `{ purchase = 3.0 }`; "
        "1 for the others",
    )

    @field_validator("inputs", "targets", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Names:
        return names_of_types(given)

    @model_validator(mode="after")
    def _weights_of_targets(self) -> Self:
        others = sorted(set(self.weights) - set(self.targets)) if self.targets else []
        if others:
            raise ValueError(f"weights has {others[0]!r}, which is not one of targets")
        return self

    def __bool__(self) -> bool:
        """Whether anything depends on the types of events."""
        return bool(self.inputs or self.targets or self.weights)
