import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring import batches as batches_module
from pipeline.scoring.batches import batches, pad
from pipeline.scoring.user_histories import UserHistories
from tests.helpers.history_strategies import as_lists, input_lists, seen_lists, some_histories


@given(some_histories(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 12), st.booleans())
def test_batches_hold_the_last_items_and_all_that_was_seen(
    everybody: UserHistories, length: int, size: int, entries: int, exclude_seen: bool
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(batches_module, "_EXCLUDE_ENTRIES", entries)
        found = list(
            batches(everybody, max_length=length, batch_size=size, exclude_seen=exclude_seen)
        )
    lists, seen_by = input_lists(everybody), seen_lists(everybody)
    assert sorted(row for batch in found for row in batch.rows) == [
        row for row, items in enumerate(lists) if items
    ]
    for batch in found:
        assert len(batch.rows) <= size
        assert batch.exclude.size <= max(entries, batch.exclude.shape[1])
        for position, row in enumerate(batch.rows):
            last = lists[row][-length:]
            assert batch.item_seq_len[position] == len(last)
            assert batch.item_seq[position].tolist() == last + [0] * (length - len(last))
            seen = [item for item in batch.exclude[position].tolist() if item]
            assert seen == (sorted(set(seen_by[row])) if exclude_seen else [])


@given(some_histories(), st.integers(1, 9))
def test_padding_is_what_a_loop_would_do(everybody: UserHistories, width: int) -> None:
    lengths = np.minimum(everybody.lengths, width)
    padded = pad(everybody.items, everybody.offsets[1:], lengths, width)
    assert padded.dtype == np.int64
    assert padded.tolist() == [
        items[-width:] + [0] * (width - len(items)) for items in as_lists(everybody)
    ]
