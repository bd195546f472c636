"""The checks of the recommendations, before they are published."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.bundles.bundle import Bundle
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.errors import TableCheckError, naming
from pipeline.limits import RUNS, Limits
from pipeline.publishing.audit import Findings, Rules, audit
from pipeline.publishing.parts import ScoredParts, open_parts
from pipeline.results import Check, Prepared, Scored, held_by
from pipeline.rules.attributes import needed_attributes
from pipeline.rules.user_segments import user_segments
from pipeline.schema import ITEM_ID, USER_ID
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.resume_keys import changed_files, rule_file_hashes
from pipeline.scoring.user_list_reader import read_user_lists
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scratch_database
from pipeline.warehouse.commits import place_of
from pipeline.warehouse.lists import PublishedLists, entries_sql, lists_before
from pipeline.warehouse.runs import runs_before

_SAMPLE = 50_000  # users whose lists are compared with the day before: a share is right to 0.5%


@dataclass(frozen=True)
class Served:
    """What the lists of a run were made from.

    Attributes:
        prepared: The histories.
        bundle: The folder of the model that serves.
        score: What was asked for.
        active_since: Only users with an event from then on have a list; None for all.
        retired_before: Items without an event from then on are not recommended; None for all.
        items_table: What is known of the items, for the rules that need it.
        similar_by: Columns of that table by which items are similar, likewise.
        run_day: The run date, for the rules that need it.
        users_table: What is known of the users, for the segments that need it.
    """

    prepared: Prepared
    bundle: Path
    score: ScoreSettings
    active_since: datetime | None
    retired_before: datetime | None = None
    items_table: str | None = None
    similar_by: tuple[str, ...] = ()
    run_day: RunDay | None = None
    users_table: str | None = None


def check_tables(
    scored: Scored,
    served: Served,
    settings: CheckSettings,
    locations: RunLocations,
    *,
    overrule: bool = False,
) -> tuple[Check, ...]:
    """Check scored parts, beside the histories and beside the newest recommendations before them.

    Args:
        scored: The parts.
        served: What they were made from.
        settings: The limits. What must never be published has none.
        locations: The tables, and the run date.
        overrule: Whether what is beyond a limit does not fail the run.

    Raises:
        TableCheckError: a check failed. Nothing was written.
        PublishError: the parts are empty, incomplete or not as they were written.
    """
    parts = open_parts(scored.folder)
    earlier = runs_before(locations.warehouse, locations.run_date, RUNS)
    limits = Limits(settings, earlier, "table_checks")
    seen = served.score.seen_on(served.run_day)
    source = PreparedHistories(served.prepared.folder, served.active_since, seen)
    items = source.with_last_seen(Bundle.load(served.bundle).items())
    attributes = needed_attributes(items, served.score, served.items_table, served.similar_by)
    eligibility = eligible_items(
        items, served.score, served.retired_before, attributes, served.run_day
    )
    segments = user_segments(served.score, served.users_table, source.types.user, source.where)
    every_item = eligibility.with_others(items)
    eligible, is_new = eligibility.by_segment()
    by_segment = [served.score.of_segment(number) for number in range(len(eligible))]
    rules = Rules(
        every_item[ITEM_ID].combine_chunks(),
        segments,
        eligible,
        np.array([score.top_k for score in by_segment]),
        bool(served.score.exclude_seen),
        bool(served.score.max_per),
        is_new,
        np.array([len(score.new_item_places) for score in by_segment]),
        read_user_lists(served.score, source, every_item, locations.resources),
    )
    with source.open(every_item, locations.scratch) as (_, histories):
        findings = audit(parts, histories, rules)
    never = _never(findings)
    limited = _limited(findings, eligible[0], limits) + _beside_before(parts, limits, locations)
    if overrule:
        limited = tuple(check.overruled() for check in limited)
    checks = never + limited
    if failed := held_by(checks):
        remedy = "Mend the cause; a limit in [checks] can be overruled by --force-publish."
        rule_files = rule_file_hashes(served.score, served.items_table, served.users_table)
        if changed := changed_files(parts.manifest.resume_key, rule_files):
            files = ", ".join(changed)
            remedy = f"{files} changed since the users were scored: run it again, by what is there."
        raise TableCheckError(
            "the recommendations failed their checks",
            parts.folder.where,
            found="; ".join(failed),
            remedy=f"Nothing was published: the table is as it was. {remedy}",
            checks=checks,
        )
    return checks


def _never(findings: Findings) -> tuple[Check, ...]:
    """What must not be published, whatever the settings say."""
    users = f": {findings.mismatch}" if findings.mismatch else ""
    counts = {
        "users_served": (bool(findings.mismatch), f"lists that are not those of the users{users}"),
        "list_lengths": (
            findings.wrong_lengths,
            "lists that are shorter or longer than there are items to recommend",
        ),
        "ranks": (findings.wrong_ranks, "ranks that are not the place in the list"),
        "repeated_items": (findings.repeated, "items that a list has twice"),
        "finite_scores": (findings.not_finite, "scores that are missing or not finite"),
        "known_items": (findings.unknown, "items that the model does not know"),
        "eligible_items": (
            findings.ineligible,
            "items that are denied, not allowed, filtered, retired or untrained",
        ),
        "seen_items": (findings.seen, "items that their user has seen"),
        "excluded_items": (findings.excluded, "items that score.exclude excludes for their user"),
        "candidate_items": (
            findings.not_candidates,
            "items that are not among their user's rows in score.candidates",
        ),
    }
    return tuple(
        Check(name, "held" if n else "passed", f"{what}: {n:,}", float(n), 1.0)
        for name, (n, what) in counts.items()
    )


def _limited(findings: Findings, eligible: NDArray[np.bool_], limits: Limits) -> tuple[Check, ...]:
    n_users = max(1, findings.n_users)
    coverage = float(np.count_nonzero(findings.recommended & eligible) / eligible.sum())
    return (
        limits.not_above_usual(
            "short_lists", findings.n_short / n_users, "share of lists below score.top_k"
        ),
        limits.not_above_usual(
            "fallback", findings.n_fallback / n_users, "share of users with popular items only"
        ),
        limits.not_below_usual("coverage", coverage, "share of the eligible items in any list"),
    )


def _beside_before(
    parts: ScoredParts, limits: Limits, locations: RunLocations
) -> tuple[Check, ...]:
    before = lists_before(locations.warehouse, locations.run_date)
    changed = overlap = None
    day = "the day before"
    if before is not None:
        changed, overlap = _compare(parts, before, locations)
        day = str(before.run_date)
    return (
        limits.not_above_usual(
            "changed_lists", changed, f"share of users with another list than on {day}"
        ),
        limits.not_below_usual("overlap", overlap, f"mean Jaccard index with the lists of {day}"),
    )


def _compare(
    parts: ScoredParts, before: PublishedLists, locations: RunLocations
) -> tuple[float | None, float | None]:
    """Compare the lists of a sample of the users who have one now and had one before.

    Returns:
        The share of them whose list is another, and the mean Jaccard index of both; None where
        there is no such user.
    """
    n_users = sum(part.n_users for part in parts.manifest.parts.values())
    # By the text, as ids may have been narrower before.
    sampled = f"hash(CAST({USER_ID} AS VARCHAR)) % {max(1, n_users // _SAMPLE)} = 0"
    with scratch_folder(locations) as folder, scratch_database(folder, locations.resources) as db:
        for name, rows, place in (
            ("now", parts.rows(), parts.folder.where),
            ("before", before.rows(), place_of(before.table)),
        ):
            with naming(place):
                db.register("rows", rows)
                db.execute(
                    f"""CREATE TABLE {name} AS
                    SELECT {USER_ID}, list({ITEM_ID} ORDER BY rank) AS items
                    FROM ({entries_sql(f"(FROM rows WHERE {sampled})", rows.schema)})
                    GROUP BY {USER_ID}"""
                )
        ((changed, overlap),) = db.execute(
            f"""SELECT avg(CAST(is_other AS INTEGER)), avg(n_common / (n_both - n_common))
            FROM (
                SELECT now.items <> before.items AS is_other,
                       len(now.items) + len(before.items) AS n_both,
                       len(list_intersect(now.items, before.items)) AS n_common
                FROM now JOIN before USING ({USER_ID})
            )"""
        ).fetchall()
    return changed, overlap
