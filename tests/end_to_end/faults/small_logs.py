"""The small logs of the undisturbed runs."""

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FIRST, DAY, NEXT = date(2026, 6, 30), date(2026, 7, 1), date(2026, 7, 2)
USERS, ITEMS, EVENTS = 160, 40, 6


def write_log(path: Path, day: date, seed: int, users: int) -> None:
    """Write a log of a day's events, some of them bad, doubled or of the day after."""
    chance = random.Random(seed)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    rows = []
    for user in range(users):
        first = chance.randrange(ITEMS)
        for step in range(EVENTS):
            item = f"item-{(first + step * chance.choice((1, 1, 2))) % ITEMS:02}"
            rows.append((user, item, noon - timedelta(minutes=(EVENTS - step) * 10)))
    rows += [
        (None, "item-01", noon),
        (3, None, noon),
        (4, "item-02", None),
        (5, "item-03", datetime(1980, 1, 1, tzinfo=UTC)),
        (6, "item-04", noon + timedelta(days=1)),
        rows[0],
        rows[7],
    ]
    user, item, time_ = zip(*rows, strict=True)
    columns = {"user_id": user, "item_id": item, "timestamp": time_}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
