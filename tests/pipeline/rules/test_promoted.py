"""Promoted items come in the order of a plain sort."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rules.promoted import Promoted
from pipeline.schema import PAD


@settings(max_examples=100)
@given(data=st.data())
def test_the_best_come_first_and_excluded_ones_never(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    items = np.sort(random.permutation(np.arange(1, 40))[: data.draw(st.integers(0, 12))])
    users = data.draw(st.integers(0, 4), label="users")
    whole = random.integers(-2, 3, (users + len(items), 3)).astype(np.float32)  # many ties
    user_embedding, table = whole[:users], whole[users:]
    bias = random.integers(-1, 2, len(items)).astype(np.float32)
    exclude = random.integers(0, 40, (users, data.draw(st.integers(0, 30))))
    popularity = random.integers(1, 4, len(items)).astype(np.float32)
    promoted = Promoted((0,), items, bias, popularity)
    count = data.draw(st.integers(1, 14), label="count")
    found = promoted.ranked(user_embedding @ table.T, exclude, count)
    assert found.complete == (count >= len(items))
    for user in range(users):
        scores = {
            int(item): float(user_embedding[user] @ table[at] + bias[at])
            for at, item in enumerate(items)
            if item not in exclude[user]
        }
        expected = sorted(scores, key=lambda item: (-scores[item], item))[:count]
        listed = [int(item) for item in found.item_index[user] if item != PAD]
        assert listed == expected
        assert found.score[user, : len(listed)].tolist() == [scores[item] for item in listed]
        assert found.item_index.shape[1] == max(1, min(count, len(items)))
    (popular,) = promoted.popular(np.zeros((1, 0), np.int64), count).item_index
    by_count = dict(zip(items.tolist(), popularity.tolist(), strict=True))
    expected = sorted(by_count, key=lambda item: (-by_count[item], item))[:count]
    assert [item for item in popular if item != PAD] == expected
