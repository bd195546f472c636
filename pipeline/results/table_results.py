"""The results of the stages of the recommendations."""

from collections.abc import Mapping
from dataclasses import dataclass

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
    absent_types: tuple[str, ...] = ()


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
