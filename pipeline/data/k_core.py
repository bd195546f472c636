"""k-core filtering: only users and items with enough interactions, and not too many."""

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.config.count_range import parse_intervals
from pipeline.config.sections import PrepareSettings
from pipeline.data.user_ranges import UserRange
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
        keep_events(source, None, db)
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
    db.execute(f"CREATE TABLE core_users AS SELECT DISTINCT {USER_ID} FROM core")
    db.execute(f"CREATE TABLE core_items AS SELECT DISTINCT {ITEM_ID} FROM core")
    db.execute("DROP TABLE core")
    _keep_core(source, db)
    return Counts(
        before.users - left.users,
        before.items - left.items,
        before.interactions - left.interactions,
    )


@dataclass(frozen=True)
class Kept:
    """Ids within the limits, to be sent to other processes.

    Attributes:
        users: A column of ids, of some users.
        items: A column of ids, of all items.
    """

    users: pa.Table
    items: pa.Table


def kept_items(db: duckdb.DuckDBPyConnection) -> pa.Table:
    """The ids of the items that `filter_events` left, given limits."""
    return db.sql("FROM core_items").to_arrow_table()


def kept_users(users: UserRange, db: duckdb.DuckDBPyConnection) -> pa.Table:
    """The ids of the users in a range that `filter_events` left, given limits."""
    query = f"FROM core_users WHERE {users.sql}"
    return db.sql(query, params={"begin": users.begin, "end": users.end}).to_arrow_table()


def keep_events(source: str, kept: Kept | None, db: duckdb.DuckDBPyConnection) -> None:
    """Make the view `events` of what another process found to be within the limits.

    Args:
        source: The table or view of events.
        kept: The ids; None without limits.
        db: The database of `source`, and nothing else.
    """
    if kept is None:
        db.execute(f"CREATE TEMP VIEW events AS FROM {source}")
        return
    db.register("core_users", kept.users)
    db.register("core_items", kept.items)
    _keep_core(source, db)


def _keep_core(source: str, db: duckdb.DuckDBPyConnection) -> None:
    # An event is in the core if both of its ids are.
    db.execute(
        f"""CREATE TEMP VIEW events AS FROM {source}
        SEMI JOIN core_users USING ({USER_ID}) SEMI JOIN core_items USING ({ITEM_ID})"""
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
