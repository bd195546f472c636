"""Users without history get what was popular over a recent window, whatever the source."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.dates import days_before
from pipeline.errors import ConfigError, InputError
from pipeline.scoring.cli import NO_RECENT, summary
from pipeline.scoring.eligibility import popularity_shares
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.storage.resources import ResourceSettings
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.scoring_cases import rows, run, write_log

ZONE = "Asia/Tokyo"
Event = tuple[str, str, datetime]


def random_events(seed: int) -> list[Event]:
    """Of 30 users and items of which the bundle knows 40, over 30 days, without equal ones."""
    random = np.random.default_rng(seed)
    return sorted(
        {
            (
                f"user{random.integers(30):02}",
                f"item{min(random.geometric(0.1), 60)}",
                datetime(2026, 10, 28, tzinfo=UTC) + timedelta(hours=int(random.integers(30 * 24))),
            )
            for _ in range(400)
        },
        key=lambda event: (event[0], event[2]),
    )


def counted(events: list[Event], days: int) -> Counter[str]:
    end = datetime(2026, 11, 20, 15, tzinfo=UTC)  # of the run date there
    begin = end - timedelta(days=days)
    return Counter(item for _, item, time in events if begin <= time < end)


def as_lists(events: list[Event]) -> pa.Table:
    names = ("user_id", "item_ids", "timestamps")
    rows_of = [dict(zip(names, event, strict=True)) for event in events]
    grouped = pa.Table.from_pylist(rows_of).group_by("user_id", use_threads=False)
    lists = grouped.aggregate([("item_ids", "list"), ("timestamps", "list")])
    return lists.select(["user_id", "item_ids_list", "timestamps_list"]).rename_columns(names)


@pytest.mark.parametrize("days", [1, 7, 60])
@pytest.mark.parametrize("kind", ["logs", "sequences"])
def test_the_lists_are_those_of_a_plain_count(
    tiny_bundle: Bundle, tmp_path: Path, kind: str, days: int
) -> None:
    events = [*random_events(days), ("zz", "item77", datetime(2026, 11, 1, tzinfo=UTC))]
    (tmp_path / "in").mkdir()
    if kind == "logs":
        write_log(tmp_path / "in" / "a.parquet", [*events, *events[:50]])  # repeats count once
    else:
        pq.write_table(as_lists(events), tmp_path / "in" / "a.parquet")
    pq.write_table(
        pa.table(
            {"item_id": [f"item{index}" for index in range(1, 41)], "even": [False, True] * 20}
        ),
        tmp_path / "items.parquet",
    )
    (tmp_path / "users.txt").write_text("zz\nuser03\n")  # all users count all the same
    result = run(
        tmp_path / "in", tiny_bundle, tmp_path / "out", top_k=12, popular_within_days=days,
        time_zone=ZONE, users=tmp_path / "users.txt", items_table=str(tmp_path / "items.parquet"),
        where="item_id <> 'item2'", promotion=[{"where": "even", "slots": [2]}],
    )  # fmt: skip
    recent, whole = counted(events, days), {}
    for row in tiny_bundle.items().to_pylist():
        whole[row["item_id"]] = row["popularity"]
    n_recent, total = sum(recent[item] for item in whole), sum(whole.values())
    assert result.n_recent == n_recent > 0
    ranked = sorted(
        (item for item, popularity in whole.items() if popularity and item != "item2"),
        key=lambda item: (-recent[item], -whole[item], int(item[4:])),
    )
    promoted = next(item for item in ranked if int(item[4:]) % 2 == 0)
    ranked.remove(promoted)
    expected = [ranked[0], promoted, *ranked[1:11]]
    found = rows(tmp_path / "out")["zz"]
    assert [item for item, _ in found] == expected
    shares = [(recent[item] + whole[item] / (total + 1)) / n_recent for item in expected]
    np.testing.assert_allclose([score for _, score in found], shares, rtol=1e-6)


def test_prepared_histories_are_counted_in_the_order_of_the_bundle(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    histories: dict[str, list[Event]] = {}
    end = datetime(2026, 11, 20, 15, tzinfo=UTC)
    for event in random_events(5):
        if event[2] < end:
            histories.setdefault(event[0], []).append(event)
    prepared = write_prepared(
        tmp_path / "prepared",
        [[item for _, item, _ in mine] for mine in histories.values()],
        [[time for _, _, time in mine] for mine in histories.values()],
    )
    since = days_before(date(2026, 11, 20), 7, ZONE)
    assert since is not None
    items = tiny_bundle.items()
    found = PreparedHistories(prepared.folder, None).popularity_since(items, since)
    recent = counted([event for mine in histories.values() for event in mine], 7)
    assert recent
    assert found.tolist() == [recent[item] for item in items["item_id"].to_pylist()]


def test_without_recent_events_all_count_and_the_summary_says_so(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "a.parquet", [("u", "item77", datetime(2026, 11, 1, tzinfo=UTC))])
    resources = ResourceSettings(scratch_dir=tmp_path / "new" / "scratch")
    result = run(log, tiny_bundle, tmp_path / "out", popular_within_days=3, resources=resources)
    assert result.n_recent == 0
    assert NO_RECENT in summary(result)
    run(log, tiny_bundle, tmp_path / "usual")
    assert rows(tmp_path / "out") == rows(tmp_path / "usual")
    assert NO_RECENT not in summary(run(log, tiny_bundle, tmp_path / "again"))


def test_an_unreadable_file_is_left_out_of_the_count_too(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    time = datetime(2026, 11, 20, tzinfo=UTC)
    log = write_log(tmp_path / "logs" / "a.parquet", [("u", "item7", time), ("v", "item77", time)])
    content = bytearray(log.read_bytes())
    content[8:40] = bytes(32)
    (log.parent / "b.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.parquet"):
        run(log.parent, tiny_bundle, tmp_path / "out", popular_within_days=3)
    options: dict[str, Any] = {"popular_within_days": 3, "skip_bad_files": True}
    result = run(log.parent, tiny_bundle, tmp_path / "out", **options)
    assert (result.n_recent, len(result.skipped_files)) == (1, 1)
    assert rows(tmp_path / "out")["v"][0][0] == "item7"


def test_sequences_without_times_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user_id": ["u"], "item_ids": [["item1"]]}), path)
    with pytest.raises(ConfigError, match="popular_within_days needs the time of each event"):
        run(path, tiny_bundle, tmp_path / "out", popular_within_days=3)
    with pytest.raises(ConfigError, match=r"popular_within_days.*greater than or equal to 1"):
        run(path, tiny_bundle, tmp_path / "out", popular_within_days=0)


def test_shares_of_all_events_are_as_they_were_without_a_window() -> None:
    popularity = np.array([5, 3, 0, 2])
    expected = popularity / 10
    assert popularity_shares(popularity, None).tolist() == expected.tolist()
    assert popularity_shares(popularity, np.zeros(4, np.int64)).tolist() == expected.tolist()


def test_what_is_equally_popular_of_late_is_ordered_by_all_events() -> None:
    popularity, recent = np.full(100_000, 100), np.full(100_000, 5)
    popularity[:3], recent[:3] = [100, 200, 300], 500
    shares = popularity_shares(popularity, recent)
    assert np.argsort(-shares, kind="stable")[:3].tolist() == [2, 1, 0]
