"""Options of an import; imports nothing heavy, for the command line."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["recbole", "movielens", "csv", "sequences"]
Unit = Literal["s", "ms", "iso"]


@dataclass(frozen=True)
class Columns:
    """The columns of a file as given on the command line; None leaves them to the format.

    Attributes:
        user: Name of the column, or its number from 1 if there is no header.
        item: Likewise.
        timestamp: Likewise.
        unit: Unit of the timestamps; `iso` without a time zone is UTC.
        delimiter: Text between two fields.
        header: Whether the first line holds the names.
    """

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    unit: Unit | None = None
    delimiter: str | None = None
    header: bool = True
