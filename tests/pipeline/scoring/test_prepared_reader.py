"""Prepared histories are those that the reader of sequences gives, without its checks."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.config.sections import LogSettings
from pipeline.dates import run_end
from pipeline.schema import ITEMS_FILE
from pipeline.scoring import prepared_reader
from pipeline.scoring.history_source import HistorySource
from pipeline.scoring.inputs import open_inputs
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.resources import ResourceSettings
from tests.helpers.prepared_folders import sequences, write_prepared

DAY = date(2026, 11, 20)
START = datetime(2026, 11, 1, tzinfo=UTC)
events = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 6)), min_size=1, max_size=8)


def read(source: HistorySource, folder: Path) -> list[tuple[int, list[int]]]:
    items = pq.read_table(folder / ITEMS_FILE)
    with TemporaryDirectory() as scratch, source.open(items, Path(scratch)) as opened:
        found = [pair for part in opened.histories for pair in pairs(part)]
        assert opened.n_users in (None, len(found))
    return found


def pairs(histories: UserHistories) -> list[tuple[int, list[int]]]:
    lists = [histories.items[begin:end].tolist() for begin, end in pairwise(histories.offsets)]
    return list(zip(histories.user_id.to_pylist(), lists, strict=True))


@pytest.mark.parametrize("days", [None, pytest.param(1, marks=pytest.mark.slow), 5])
@given(users=st.lists(events, min_size=1, max_size=9), batch=st.integers(1, 4))
@tuned(max_examples=12)
def test_they_are_what_the_checked_reader_gives(
    days: int | None, users: list[list[tuple[int, int]]], batch: int
) -> None:
    ordered = [sorted(each) for each in users]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_reader, "_BATCH_ROWS", batch)
        folder = Path(name) / "prepared"
        write_prepared(
            folder,
            [[item for _, item in each] for each in ordered],
            [[START + timedelta(days=day) for day, _ in each] for each in ordered],
        )
        file = Path(name) / "sequences.parquet"
        pq.write_table(sequences(folder).drop_columns("item_index"), file)
        checked = open_inputs([str(file)], skip_bad_files=False).histories(
            LogSettings(),
            pa.string(),
            run_date=DAY,
            time_zone="UTC",
            users=None,
            active_within_days=days,
            seen_rule=None,
            skip_bad_files=False,
            resources=ResourceSettings(threads=1),
        )
        since = None if days is None else run_end(DAY - timedelta(days=days), "UTC")
        prepared = PreparedHistories(folder, since)
        assert read(prepared, folder) == read(checked, folder)
        assert prepared.types == checked.types
