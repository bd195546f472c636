"""k-core filtering: only users and items with enough interactions, and not too many."""

from dataclasses import dataclass

import duckdb

from pipeline.config.count_range import parse_intervals
from pipeline.config.sections import PrepareSettings
from pipeline.errors import InputError
from pipeline.schema import ITEM_ID, USER_ID
from pipeline.storage.scratch_db import scalar


@dataclass(frozen=True)
class Counts:
    """How much is there, or was taken away."""

    users: int
    items: int
    interactions: int


def filter_events(
    source: str, limits: PrepareSettings, db: duckdb.DuckDBPyConnection
) -> Counts | None:
    """Make the view `events` of what is within the limits.

    As in RecBole, users and items outside of their intervals go at the same time, the others are
    counted anew, and so on until all that are left are within.

    Args:
        source: The table or view of all events, one at least.
        limits: The intervals; None sets no limit.
        db: The database of `source`.

    Returns:
        What was left out; None where there are no limits, so that no id was looked at.

    Raises:
        InputError: nothing is left.
    """
    outside = _outside(limits)
    if not outside:
        db.execute(f"CREATE TEMP VIEW events AS FROM {source}")
        return None
    db.execute(f"CREATE TABLE core AS SELECT {USER_ID}, {ITEM_ID} FROM {source}")
    before = _counts(db)
    while scalar(db, f"DELETE FROM core WHERE {' OR '.join(outside.values())}"):
        pass
    left = _counts(db)
    if not left.interactions:
        raise InputError(
            "no interaction is left by " + " and ".join(outside),
            found=f"{before.interactions:,} interactions of {before.users:,} users "
            f"and {before.items:,} items before",
            remedy="Widen the interval.",
        )
    # An event is in the core if both of its ids are.
    db.execute(f"CREATE TABLE core_users AS SELECT DISTINCT {USER_ID} FROM core")
    db.execute(f"CREATE TABLE core_items AS SELECT DISTINCT {ITEM_ID} FROM core")
    db.execute("DROP TABLE core")
    db.execute(
        f"""CREATE TEMP VIEW events AS FROM {source}
        SEMI JOIN core_users USING ({USER_ID}) SEMI JOIN core_items USING ({ITEM_ID})"""
    )
    return Counts(
        before.users - left.users,
        before.items - left.items,
        before.interactions - left.interactions,
    )


def _outside(limits: PrepareSettings) -> dict[str, str]:
    """By setting, as the user wrote it, the condition on a row of `core` that breaks it."""
    intervals = {
        ("user", USER_ID): limits.user_inter_num_interval,
        ("item", ITEM_ID): limits.item_inter_num_interval,
    }
    conditions = {}
    for (whose, column), text in intervals.items():
        if text is not None:
            within = " OR ".join(part.sql("count(*)") for part in parse_intervals(text))
            conditions[f'prepare.{whose}_inter_num_interval = "{text}"'] = (
                f"{column} IN (SELECT {column} FROM core GROUP BY {column} HAVING NOT ({within}))"
            )
    return conditions


def _counts(db: duckdb.DuckDBPyConnection) -> Counts:
    """What `core` holds."""
    ((users, items, interactions),) = db.execute(
        f"SELECT count(DISTINCT {USER_ID}), count(DISTINCT {ITEM_ID}), count(*) FROM core"
    ).fetchall()
    return Counts(users, items, interactions)
