"""Write the sample: 30 days of 2,000 invented people in an invented shop, and its 810 items.

The shop sells series of numbered volumes. Everybody follows a few series at a time, one on each of
the weekdays they come on; some weekdays alternate between two series from week to week. Who comes
takes the next volume of the day's series. So the next item follows, not the one before, but the one
of a week or a fortnight ago: a sequence model can learn that, a table of neighbours can not.
Strays, skipped volumes, second looks, missed days and changing tastes are the noise. A few rows
are spoilt, as in real logs. Ten volumes came out on the last day, and nobody has taken one yet.

    python sample_data/generate.py      # the same bytes every time, with the same libraries
"""

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20260601
FIRST_DAY = datetime(2026, 6, 1, tzinfo=UTC)  # a Monday
N_DAYS, N_USERS, N_SERIES, SERIES_LENGTH = 30, 2_000, 40, 20
N_ITEMS = N_SERIES * SERIES_LENGTH
N_NEW = 10  # series of which one more volume came out on the last day

N_TASTES = 5  # series that a user follows at a time
FORTNIGHTLY = 0.35  # chance of a weekday that its series is another every other week
COME, COME_UNUSUALLY = 0.95, 0.03  # chance to come on a usual weekday, and on another
MORE, MOST = 0.15, 4  # chance to take one more item at a visit, and how many at most
STRAY = 0.10  # chance that an item is of any series, by popularity
AGAIN = 0.02  # chance that it is the volume taken last, once more
SKIP = 0.10  # chance that a volume is skipped
DRIFT = 0.02  # chance per day that one series of a user's tastes gives way to another
LATE_USERS = 0.25  # share of users that first appear after the first day
N_LATE, LATE_SERIES = 4, 0.5  # the last volumes of some series appear after the first day

# Rows spoilt, by kind.
NULL_USERS, NULL_ITEMS, NULL_TIMES, ANCIENT, FUTURE, DUPLICATES = 12, 9, 7, 6, 5, 80

Volume = tuple[str, str, str, float]  # title, category, series and price

TIME = pa.timestamp("us", tz="UTC")
LOG = pa.schema([("user_id", pa.int64()), ("item_id", pa.string()), ("timestamp", TIME)])
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("series", pa.string()),
        ("price", pa.float64()),
        ("created_at", TIME),
    ]
)


@dataclass(frozen=True)
class Shop:
    """What the items are; arrays are by item: series times `SERIES_LENGTH`, plus the volume."""

    item_ids: np.ndarray  # numbered at random, so that ids tell nothing
    release: np.ndarray  # day of first appearance, from 0; 0 also for all that is older
    liking: np.ndarray  # of each series: the share of users' choices, a long tail


def main(folder: Path) -> None:
    """Write the items and one log file per day."""
    rng = np.random.default_rng(SEED)
    late = rng.random((N_SERIES, 1)) < LATE_SERIES
    days = np.sort(rng.integers(3, N_DAYS - 3, (N_SERIES, N_LATE)), axis=1)
    release = np.zeros((N_SERIES, SERIES_LENGTH), int)
    release[:, -N_LATE:] = np.where(late, days, 0)
    liking = 1 / np.arange(1, N_SERIES + 1) ** 0.6
    shop = Shop(
        np.array([f"item-{number:04d}" for number in rng.permutation(N_ITEMS)]),
        release.ravel(),
        rng.permutation(liking / liking.sum()),
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(items_table(rng, shop), folder / "items.parquet", compression="zstd")

    day, rows = spoil(rng, *log_rows(shop, *choices(rng, shop)))
    for number in range(N_DAYS):
        of_day = rows.filter(pa.array(day == number)).sort_by("timestamp")
        partition = folder / "logs" / f"dt={FIRST_DAY + timedelta(days=number):%Y-%m-%d}"
        partition.mkdir(parents=True, exist_ok=True)
        pq.write_table(of_day, partition / "part-0.parquet", compression="zstd")


def items_table(rng: np.random.Generator, shop: Shop) -> pa.Table:
    """One row per item, ordered by id."""
    content = (Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8")
    rows: list[Volume] = []
    for category in tomllib.loads(content)["category"]:
        rows += volumes(rng, category)

    # A volume every few weeks, the last of the old ones shortly before the first day.
    series, volume = np.divmod(np.arange(N_ITEMS), SERIES_LENGTH)
    rhythm, latest = rng.integers(20, 91, N_SERIES), rng.integers(1, 20, N_SERIES)
    n_old = np.bincount(series[shop.release == 0])
    old_days = -latest[series] - rhythm[series] * (n_old[series] - 1 - volume)
    released = np.where(shop.release > 0, shop.release, old_days)
    newest = new_volumes(rows)
    ids = [*shop.item_ids, *(f"item-{N_ITEMS + number:04d}" for number in range(N_NEW))]
    days = [*released, *[N_DAYS - 1] * N_NEW]
    created = [FIRST_DAY + timedelta(days=int(day)) for day in days]
    columns = [ids, *zip(*rows, *newest, strict=True), pa.array(created, TIME)]
    return pa.table(columns, schema=ITEMS).sort_by("item_id")


def volumes(rng: np.random.Generator, category: dict[str, Any]) -> list[Volume]:
    """Every volume of a category's series, in order."""
    names = [f"{one} {other}" for one in category["adjectives"] for other in category["nouns"]]
    rows = []
    for place, name in enumerate(rng.permutation(names)):
        number, volume = divmod(place, SERIES_LENGTH)
        series = category["series"][number]
        price = round(category["price"] + int(rng.integers(-3, 4)), 2)
        rows.append((f"{series} {volume + 1}: {name}", category["name"], series, price))
    return rows


def new_volumes(rows: list[Volume]) -> list[Volume]:
    """One more volume of every fourth series, as dear as its last one."""
    step = N_SERIES // N_NEW * SERIES_LENGTH
    return [
        (f"{series} {SERIES_LENGTH + 1}: The Beginning", category, series, price)
        for _, category, series, price in rows[step - 1 :: step]
    ]


def choices(rng: np.random.Generator, shop: Shop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who takes what when.

    Returns:
        Users from 0, items and times in seconds since the first day; by user, then by time.
    """
    users = np.arange(N_USERS)
    shape = N_USERS, N_SERIES
    # Tastes without repeats, by liking (Gumbel's trick), and the one of each weekday and week.
    noisy = np.log(shop.liking) + rng.gumbel(size=shape)
    tastes = np.argsort(-noisy, axis=1)[:, :N_TASTES]
    habit = np.repeat(rng.integers(N_TASTES, size=(N_USERS, 1, 7)), 2, axis=1)
    other = rng.integers(N_TASTES, size=(N_USERS, 7))
    alternates = rng.random((N_USERS, 7)) < FORTNIGHTLY
    habit[:, 1] = np.where(alternates, other, habit[:, 1])
    # The usual weekdays: two to all seven, rather weekends.
    wish = rng.random((N_USERS, 7))
    wish[:, 5:] += 0.3
    usual = np.argsort(np.argsort(-wish, axis=1), axis=1) < rng.integers(2, 8, (N_USERS, 1))
    late = rng.random(N_USERS) < LATE_USERS
    joined = np.where(late, rng.integers(1, N_DAYS - 12, N_USERS), 0)
    hour = 6 + 16.5 * rng.beta(6, 1.5, (N_DAYS, N_USERS))  # evenings, and done before midnight
    # The volume taken last of each series, -1 for none; beginnings are known better.
    last = rng.integers(SERIES_LENGTH, size=shape)
    last[rng.random(shape) < 0.5] = -1
    seen = np.zeros((N_USERS, N_ITEMS), bool)

    taken: list[np.ndarray] = []
    for day in range(N_DAYS):
        week, weekday = divmod(day, 7)
        drifts = np.flatnonzero(rng.random(N_USERS) < DRIFT)
        places = rng.integers(N_TASTES, size=len(drifts))
        tastes[drifts, places] = rng.choice(N_SERIES, len(drifts), p=shop.liking)
        chance = np.where(usual[:, weekday], COME, COME_UNUSUALLY)
        here = ((rng.random(N_USERS) < chance) & (joined <= day)) | (joined == day)
        seconds = day * 86_400 + hour[day] * 3_600
        for _ in range(MOST):
            user = users[here]
            series = tastes[user, habit[user, week % 2, weekday]]
            strays = rng.random(len(user)) < STRAY
            series[strays] = rng.choice(N_SERIES, int(strays.sum()), p=shop.liking)
            volume = last[user, series] + 1 + (rng.random(len(user)) < SKIP)
            item = next_free(shop, seen[user], series * SERIES_LENGTH + volume, day)
            again = series * SERIES_LENGTH + np.maximum(last[user, series], 0)
            looks_again = (rng.random(len(user)) < AGAIN) & seen[user, again]
            item[looks_again] = again[looks_again]
            inside = item // SERIES_LENGTH == series
            last[user[inside], series[inside]] = item[inside] % SERIES_LENGTH
            seen[user, item] = True
            taken.append(np.stack([user, item, seconds[user]], axis=1))
            here &= rng.random(N_USERS) < MORE
            seconds = seconds + rng.uniform(60, 1_200, N_USERS)
    user, item, second = np.concatenate(taken).T
    order = np.lexsort((second, user))
    return user[order].astype(int), item[order].astype(int), second[order]


def next_free(shop: Shop, seen: np.ndarray, item: np.ndarray, day: int) -> np.ndarray:
    """Each item, or the next after it that its user has not seen and that is out."""
    after = (item[:, None] + np.arange(N_ITEMS)) % N_ITEMS
    free = ~np.take_along_axis(seen, after, axis=1) & (shop.release[after] <= day)
    return after[np.arange(len(item)), free.argmax(axis=1)]


def log_rows(
    shop: Shop, user: np.ndarray, item: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, pa.Table]:
    """The day of each row, and good rows as the log has them."""
    start = int(FIRST_DAY.timestamp()) * 1_000
    times = pa.array((start + np.round(second * 1_000).astype(np.int64)) * 1_000).cast(TIME)
    table = pa.table([1_000 + user, shop.item_ids[item], times], schema=LOG)
    return (second // 86_400).astype(int), table


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
    main(Path(__file__).parent)
