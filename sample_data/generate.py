"""Write the sample logs: 30 days of 2,000 invented people going through 800 invented items.

Items come in series. Who has met one item mostly goes on to one of the next three of its series:
that is what a sequence model can learn. Otherwise they turn to another series of their taste,
which drifts, and is another at weekends. A few rows are spoilt, as in real logs.

    python sample_data/generate.py      # the same bytes every time, with the same libraries
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20260601
FIRST_DAY = datetime(2026, 6, 1, tzinfo=UTC)  # a Monday
N_DAYS, N_USERS, N_SERIES, SERIES_LENGTH = 30, 2_000, 40, 20
N_ITEMS = N_SERIES * SERIES_LENGTH

FOLLOW = 0.75  # chance that the next item follows the one before in its series
STEPS = [0.65, 0.23, 0.12]  # ... as its first, second or third next
DRIFT = 0.04  # chance, an event, that one series of a taste gives way to another
LATE_USERS, LATE_ITEMS = 0.25, 0.10  # shares of those that first appear after the first day

# What is spoilt, in rows.
NULL_USERS, NULL_ITEMS, NULL_TIMES, ANCIENT, FUTURE, DUPLICATES = 12, 9, 7, 6, 5, 80

LOG = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
    ]
)


def main(folder: Path) -> None:
    """Write one file a day into `folder`."""
    rng = np.random.default_rng(SEED)
    day, rows = spoil(rng, *interactions(rng))
    for number in range(N_DAYS):
        of_day = rows.filter(pa.array(day == number)).sort_by("timestamp")
        partition = folder / f"dt={FIRST_DAY + timedelta(days=number):%Y-%m-%d}"
        partition.mkdir(parents=True, exist_ok=True)
        pq.write_table(of_day, partition / "part-0.parquet", compression="zstd")


def interactions(rng: np.random.Generator) -> tuple[np.ndarray, pa.Table]:
    """Good rows, and the day of each."""
    # Series are liked unequally (a long tail); every other one is a weekend series.
    liking = 1 / np.arange(1, N_SERIES + 1) ** 0.6
    names = rng.permutation(N_ITEMS)  # so that ids tell nothing of series
    late = rng.random(N_ITEMS) < LATE_ITEMS
    release = np.where(late, rng.integers(3, N_DAYS - 3, N_ITEMS), 0)  # day of first appearance

    users, items, seconds = [], [], []
    for user in range(N_USERS):
        times = event_times(rng)
        users += [1_000 + user] * len(times)
        items += list(walk(rng, times, liking, release))
        seconds += list(times)
    seconds_in = np.array(seconds)
    item_ids = [f"item-{names[item]:04d}" for item in items]
    micros = int(FIRST_DAY.timestamp()) * 1_000_000 + (seconds_in * 1e6).astype(np.int64)
    times_utc = pa.array(micros).cast(LOG.field("timestamp").type)
    return (seconds_in // 86_400).astype(int), pa.table([users, item_ids, times_utc], schema=LOG)


def event_times(rng: np.random.Generator) -> np.ndarray:
    """When one user is about: seconds since the first day, ascending."""
    count = int(np.clip(rng.lognormal(3.0, 0.6), 4, 120))
    joined = rng.integers(1, N_DAYS - 2) if rng.random() < LATE_USERS else 0
    days = np.arange(joined, N_DAYS)
    weight = np.where(days % 7 >= 5, 2.0, 1.0)  # weekends count double
    day = rng.choice(days, count, p=weight / weight.sum())
    hour = rng.normal(19.5, 2.5, count) % 24  # evenings
    return np.sort(day * 86_400 + np.round(hour * 3_600, 3) % 86_400)


def walk(
    rng: np.random.Generator, times: np.ndarray, liking: np.ndarray, release: np.ndarray
) -> list[int]:
    """The items one user meets, none of them twice."""
    taste = rng.choice(N_SERIES, 4, replace=False, p=liking / liking.sum())
    seen: list[int] = []
    for time in times:
        day = int(time // 86_400)
        if rng.random() < DRIFT:
            taste[rng.integers(4)] = rng.choice(N_SERIES, p=liking / liking.sum())
        if seen and rng.random() < FOLLOW:
            series, place = divmod(seen[-1], SERIES_LENGTH)
            place += rng.choice([1, 2, 3], p=STEPS)
        else:
            weekend = (taste % 2 == 1) == (day % 7 >= 5)  # the series that suit the day
            series = rng.choice(taste[weekend] if weekend.any() else taste)
            place = int(rng.integers(SERIES_LENGTH) * rng.random())  # beginnings are known better
        # On along the series, then into the next one, past what is seen or not yet out.
        item = (series * SERIES_LENGTH + place) % N_ITEMS
        while item in seen or release[item] > day:
            item = (item + 1) % N_ITEMS
        seen.append(int(item))
    return seen


def spoil(rng: np.random.Generator, day: np.ndarray, rows: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Add bad rows, and repeats of good ones in the same file or the next day's."""
    null = {field.name: pa.scalar(None, field.type) for field in LOG}
    ancient = pa.scalar(datetime(1970, 1, 1, tzinfo=UTC), LOG.field("timestamp").type)
    future = pa.scalar(datetime(2099, 12, 31, tzinfo=UTC), LOG.field("timestamp").type)
    spoilt = [
        ("user_id", null["user_id"], NULL_USERS),
        ("item_id", null["item_id"], NULL_ITEMS),
        ("timestamp", null["timestamp"], NULL_TIMES),
        ("timestamp", ancient, ANCIENT),
        ("timestamp", future, FUTURE),
    ]
    days, tables = [day], [rows]
    for name, value, count in spoilt:
        picked = rng.choice(len(rows), count, replace=False)
        index = LOG.get_field_index(name)
        days.append(day[picked])
        tables.append(rows.take(picked).set_column(index, LOG.field(name), pa.repeat(value, count)))
    picked = rng.choice(len(rows), DUPLICATES, replace=False)
    days.append(np.minimum(day[picked] + rng.integers(0, 2, DUPLICATES), N_DAYS - 1))
    tables.append(rows.take(picked))
    return np.concatenate(days), pa.concat_tables(tables)


if __name__ == "__main__":
    main(Path(__file__).parent / "logs")
