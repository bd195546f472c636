"""The results of the stages of the recommendations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.results.data_results import Check


@dataclass(frozen=True)
class RuleCounts:
    """What the rules over the items table did.

    Attributes:
        filtered_items: Items that `score.where` alone leaves out.
        unknown_rows: Rows of the items table whose id the bundle does not know.
        missing_rows: Items of the bundle without a row in it.
    """

    filtered_items: int
    unknown_rows: int
    missing_rows: int


@dataclass(frozen=True)
class SegmentCounts:
    """The users of one segment.

    Attributes:
        name: The segment's name.
        listed: Those of its file or of the users table, without those of earlier segments.
        n_users: How many of them are in the output.
    """

    name: str
    listed: int
    n_users: int


@dataclass(frozen=True)
class NewItemCounts:
    """The new items that `score.new_items` is about.

    Attributes:
        listed: Those that may be recommended.
        without_similar: Those that may not, as no item of the model is similar.
    """

    listed: int
    without_similar: int


@dataclass(frozen=True)
class PairCounts:
    """What a file of users and items holds, `score.candidates` or `score.exclude`.

    Attributes:
        null_rows: Rows without a user or without an item, left out.
        repeated_rows: Rows that repeat another one's pair.
        unknown_rows: Rows with an item that the bundle does not know, left out.
        absent_users: Users with a row left who are not among those scored.
        users_without: Users scored who have no row left.
    """

    null_rows: int = 0
    repeated_rows: int = 0
    unknown_rows: int = 0
    absent_users: int = 0
    users_without: int = 0

    def beside(self, *, absent_users: int, users_without: int) -> "PairCounts":
        """The same counts of rows, with these counts of users."""
        return replace(self, absent_users=absent_users, users_without=users_without)


@dataclass(frozen=True)
class Scored:
    """The result of score: its output, and what was left out of its input.

    Attributes:
        folder: The output's path or URI.
        model_version: The bundle's model version.
        provider: The execution provider, such as CUDAExecutionProvider.
        precision: fp32 or fp16.
        devices: The number of scoring processes.
        n_users: Users in the output, those from before a resumption included.
        n_rows: Rows in the output.
        n_fallback: Users without a known item, who got popular items.
        n_short: Users with fewer items than the `top_k` that is theirs.
        dropped: Rows that break a row rule, by reason.
        duplicates: Exact repeats of events, of which one is kept.
        unknown_items: Events with items that the bundle does not know, left out.
        unknown_listed: Ids in the allow and deny files that the bundle does not know.
        absent_users: Users of the list of users who have no row.
        skipped_files: Unreadable files that were left out.
        seconds: From the call to the last row.
        users_per_second: Users scored in this run per second of scoring.
        filtered: Rows that `logs.keep` leaves out.
        rules: What the rules over the items table did; None without such rules.
        segments: The users of each segment.
        new_items: The new items; None where they have no places.
        n_recent: The events by which `score.popular_within_days` goes; where there are none, all
            that the model was trained on count. None without that setting.
        candidates: What `score.candidates` holds; None without it.
        exclude: What `score.exclude` holds; None without it.
        absent_types: Types of events that `score.exclude_seen` names and no event has.
    """

    folder: str
    model_version: str
    provider: str
    precision: str
    devices: int
    n_users: int
    n_rows: int
    n_fallback: int
    n_short: int
    dropped: Mapping[str, int]
    duplicates: int
    unknown_items: int
    unknown_listed: int
    absent_users: int
    skipped_files: tuple[str, ...]
    seconds: float
    users_per_second: float
    filtered: int = 0
    rules: RuleCounts | None = None
    segments: tuple[SegmentCounts, ...] = ()
    new_items: NewItemCounts | None = None
    n_recent: int | None = None
    candidates: PairCounts | None = None
    exclude: PairCounts | None = None
    absent_types: tuple[str, ...] = ()

    def user_list_facts(self) -> dict[str, int]:
        """What of the items listed per user has no effect, in words, and how often."""
        facts = {}
        given = {"score.candidates": self.candidates, "score.exclude": self.exclude}
        for setting, counts in given.items():
            if counts is not None:
                facts[f"rows of {setting} without a user or an item"] = counts.null_rows
                facts[f"rows of {setting} that repeat another one"] = counts.repeated_rows
                facts[f"rows of {setting} with an item unknown to the bundle"] = counts.unknown_rows
                facts[f"users of {setting} are not among those scored"] = counts.absent_users
        if self.candidates is not None:
            facts["users without a candidate get no list"] = self.candidates.users_without
        return facts


@dataclass(frozen=True)
class Published:
    """The result of publish.

    Attributes:
        table: Path or URI of the `recommendations` table.
        table_id: Identifies the table; one created anew in its place has another.
        version: The table's version afterwards.
        n_rows: Rows of the run date.
        n_users: Users they are for.
        checks: The checks that the rows passed before.
    """

    table: str
    table_id: str
    version: int
    n_rows: int
    n_users: int
    checks: tuple[Check, ...] = ()
