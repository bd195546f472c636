"""The results of the stages of the data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Ingested:
    """The result of ingest.

    Attributes:
        interactions_id: Identifies the `interactions` table; one created anew has another.
        interactions_version: Version of that table afterwards.
        files: Log files read; those already known are not.
        rows: Rows read from them.
        added: Rows new in `interactions`, those released from quarantine among them.
        duplicates: Good rows not added because they are there already.
        quarantined: Rows new in `quarantine`.
        withdrawn: Events taken out of `interactions` because the file that had them has them no
            longer, or is read by other columns or in another unit of time.
        quarantined_by_reason: The rows new in `quarantine`, by the reason.
        filtered: Rows that `logs.keep` leaves out.
    """

    interactions_id: str
    interactions_version: int
    files: int
    rows: int
    added: int
    duplicates: int
    quarantined: int
    withdrawn: int
    quarantined_by_reason: Mapping[str, int] = field(default_factory=dict)
    filtered: int = 0


@dataclass(frozen=True)
class Forgotten:
    """The result of forgetting log files.

    Attributes:
        files: Their names in the column `source_file`.
        rows: The rows that `interactions` had from them.
        withdrawn: The events that are gone: of the others, another file has them too.
        quarantined: The rows that `quarantine` had from them.
        still_there: The paths of those that still lie in the logs.
    """

    files: tuple[str, ...]
    rows: int
    withdrawn: int
    quarantined: int
    still_there: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """The result of prepare: what one run trains on and scores from.

    Attributes:
        folder: The histories and the items; see `pipeline.storage.prepared_folder`.
        content_hash: sha256 of the content of its files.
        interactions_version: Version of the `interactions` table it was made from.
        vocabulary_id: Identifies the `vocabulary` table that the indices come from; one created
            anew has another.
        n_users: Users with an event up to the run date.
        n_items: Size of the vocabulary, PAD included (V).
        n_interactions: Events up to the run date.
        first_event: Time of the first of them.
        last_event: Time of the last of them.
        left_out_users: Users of whom k-core filtering kept no event; the counts and times above
            are of what it kept.
        left_out_items: Items likewise. An item that has an index keeps it.
        left_out_interactions: Events it did not keep.
        interactions_id: Identifies the `interactions` table; one created anew has another.
        end: Only events before this instant are in it.
        has_all: Whether all of them are, whatever settings could leave out.
    """

    folder: Path
    content_hash: str
    interactions_version: int
    vocabulary_id: str
    n_users: int
    n_items: int
    n_interactions: int
    first_event: datetime
    last_event: datetime
    left_out_users: int = 0
    left_out_items: int = 0
    left_out_interactions: int = 0
    interactions_id: str = ""
    end: datetime | None = None
    has_all: bool = False


@dataclass(frozen=True)
class Check:
    """One check of a run's data, or of its recommendations before they are published.

    Attributes:
        name: The setting that has its limit, such as ``quarantined``.
        outcome: ``passed``, ``warned``, ``held``, or ``overruled`` where it would have held the
            run but publishing was forced.
        message: What was found beside what was expected, in one line.
        value: What was found, where it is a number.
        limit: The value from which on the check fails.
    """

    name: str
    outcome: Literal["passed", "warned", "held", "overruled"]
    message: str
    value: float | None = None
    limit: float | None = None

    def overruled(self) -> "Check":
        """The same, where it may not hold the run."""
        return replace(self, outcome="overruled") if self.outcome == "held" else self


def held_by(checks: Iterable[Check]) -> tuple[str, ...]:
    """The messages of the checks that hold a run."""
    return tuple(check.message for check in checks if check.outcome == "held")


@dataclass(frozen=True)
class Checked:
    """The result of the checks of the data.

    Attributes:
        checks: Each check.
        realised: How often the last published lists held what users took since, beside the most
            popular items: see `pipeline.evaluation.realised`. Empty where nothing is known.
    """

    checks: tuple[Check, ...] = ()
    realised: Mapping[str, float] = field(default_factory=dict)

    @property
    def held_by(self) -> tuple[str, ...]:
        """The messages of the checks that hold the run."""
        return held_by(self.checks)

    @property
    def objections(self) -> tuple[str, ...]:
        """The messages of the checks that hold the run, or would if they were not overruled."""
        failed = ("held", "overruled")
        return tuple(check.message for check in self.checks if check.outcome in failed)

    def overruled(self) -> "Checked":
        """The same, where nothing holds the run."""
        return replace(self, checks=tuple(check.overruled() for check in self.checks))
