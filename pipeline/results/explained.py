"""The result of `fearec recommend USER --explain ITEM`."""

from dataclasses import dataclass
from datetime import date
from typing import Any


@dataclass(frozen=True)
class Reason:
    """One reason why an item is in a user's list, or is not.

    Attributes:
        name: `unknown`, `seen`, `filtered`, `excluded`, `capped`, `outranked` or `listed` of the
            item; `unknown_user` or `inactive_user`.
        text: In words.
        details: The values in the text, by name.
    """

    name: str
    text: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Explained:
    """Why an item is in a user's list of one run date, or is not.

    Attributes:
        user_id: The user.
        item_id: The item.
        run_date: Of the list.
        model_version: That made it.
        listed: Whether the item is in it.
        reasons: All of them; of an item that the user may get, one.
        changed: What is no longer as it was when the list was made; the reasons are of now.
    """

    user_id: int | str
    item_id: int | str
    run_date: date
    model_version: str
    listed: bool
    reasons: tuple[Reason, ...]
    changed: tuple[str, ...]
