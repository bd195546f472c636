"""What can be said of a file to import; light, for the command line."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["recbole", "movielens", "csv", "sequences"]
Unit = Literal["s", "ms", "iso"]


@dataclass(frozen=True)
class Columns:
    """What the command line says of a file's columns; None leaves it to the format.

    Attributes:
        user: Name of the column, or its number from 1 where there is no header.
        item: Likewise.
        timestamp: Likewise.
        unit: Of the timestamps; `iso` without a zone is UTC.
        delimiter: Between two fields.
        header: Whether the first line holds the names.
    """

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    unit: Unit | None = None
    delimiter: str | None = None
    header: bool = True
