"""The tables of rules inside `[score]` of `fearec.toml`: promotions, new items, segments, more."""

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from model.pydantic_base import Frozen
from pipeline.config.row_conditions import check_condition
from pipeline.dates import MOST_DAYS

# One word with a dot or slash, or what begins like a path: no useful expression is any of these.
_PATH = re.compile(r"""\.{0,2}[/\\]|[A-Za-z]:\\|\w+://|[^\s'"()=<>!]*[./\\][^\s'"()=<>!]*\Z""")


def _checked(where: str) -> str:
    check_condition(where, columns=None)
    return where


def _checked_if_given(where: str | None) -> str | None:
    return _checked(where) if where else None


# Expressions whose columns are not known yet; an empty one is none.
Condition = Annotated[str, AfterValidator(_checked)]
OptionalCondition = Annotated[str | None, AfterValidator(_checked_if_given)]


class PromotedSlots(Frozen):
    """Places of every list that are for some of the items."""

    section = "score.promotion"

    where: Condition = Field(description="which items: an expression as in `score.where`")
    slots: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="the places, from 1"
    )


class FreshnessBoost(Frozen):
    """What is added to the scores of newer items."""

    section = "score.freshness"

    weight: float = Field(gt=0, description="what an item gets that was created just now")
    half_life_days: float = Field(gt=0, description="the age at which it is half of that")


class NewItemQuota(Frozen):
    """Places of every list that are for items without events."""

    section = "score.new_items"

    share: float = Field(gt=0, le=1, description="of the places of a list, rounded up")
    within_days: int = Field(
        ge=1, le=MOST_DAYS, description="only items created in so many days up to the run date"
    )


class SegmentSettings(Frozen):
    """Some of the users, and the rules that are theirs."""

    section = "score.segment"

    name: str = Field(min_length=1, description="for messages and counts")
    users: str = Field(
        min_length=1,
        description="which users: the path of a file of ids, or a DuckDB expression over the "
        "columns of the table `users.path`. It is a path if it is one word with a dot or a slash, "
        "or begins with a slash or `./`",
    )
    where: OptionalCondition = Field(
        None, description="of the items that `score.where` leaves, only these: an expression as it"
    )
    top_k: int | None = Field(None, ge=1, description="in place of `score.top_k`")
    promotion: tuple[PromotedSlots, ...] | None = Field(
        None, description="in place of `score.promotion`; `[]` for none"
    )

    @field_validator("users", mode="before")
    @classmethod
    def _as_text(cls, users: Any) -> Any:
        path = os.fspath(users) if isinstance(users, os.PathLike) else None
        return users if path is None or _PATH.match(path) else os.path.join(".", path)

    @field_validator("users")
    @classmethod
    def _is_path_or_condition(cls, users: str) -> str:
        if not _PATH.match(users):
            _checked(users)
        return users

    @property
    def file(self) -> str | None:
        """The path of the file of user ids; None where `users` is an expression."""
        return self.users if _PATH.match(self.users) else None


def check_slots(
    promotions: tuple[PromotedSlots, ...], top_k: int, n_new: int, setting: str, length: str
) -> None:
    """Check that the slots of promotions are places of a list, each of one promotion.

    They have to leave the places of new items.

    Args:
        promotions: The promotions of one list.
        top_k: K.
        n_new: The number of places of new items.
        setting: The name of their setting, for errors.
        length: The name of the setting of K.

    Raises:
        ValueError: a slot is beyond K, or promised twice, or too few places are left.
    """
    slots = [slot for promotion in promotions for slot in promotion.slots]
    if beyond := [slot for slot in slots if slot > top_k]:
        raise ValueError(f"slot {beyond[0]} of a promotion is beyond {length} = {top_k}")
    if len(set(slots)) < len(slots):
        twice = next(slot for slot in slots if slots.count(slot) > 1)
        raise ValueError(f"slot {twice} is promised twice by {setting}")
    left = top_k - len(slots)
    if n_new > left:
        raise ValueError(
            f"score.new_items is for {n_new} places, but {setting} leaves {left} of "
            f"{length} = {top_k}"
        )
