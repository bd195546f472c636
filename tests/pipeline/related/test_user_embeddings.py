"""User embeddings and audiences against the encoder and sorts in plain Python."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import BundleError
from pipeline.related import audience
from pipeline.related.audience import find_audience
from pipeline.related.item_vectors import item_vectors
from pipeline.scoring import user_encoder
from pipeline.scoring.user_encoder import UserEncoder
from pipeline.scoring.user_histories import UserHistories
from tests.conftest import MAX_LENGTH
from tests.pipeline.related.test_co_occurrence import as_histories

CPU = ScoreSettings(provider="cpu", threads=2, batch_size=4)


def encoder_of(bundle: Bundle, settings: ScoreSettings = CPU) -> UserEncoder:
    return UserEncoder.load(bundle, item_vectors(bundle).shape[1], settings)


def random_lists(users: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 41, rng.integers(0, 9)).tolist() for _ in range(users)]


def mean_of_last(lists: list[list[int]], table: np.ndarray) -> np.ndarray:
    """What the tests' encoder computes."""
    return np.array([table[each[-MAX_LENGTH:]].astype(np.float64).mean(axis=0) for each in lists])


def test_they_are_what_the_encoder_says_in_the_users_order(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_encoder, "PART_USERS", 30)
    lists = random_lists(100, 1)
    parts = list(
        encoder_of(tiny_bundle).parts([as_histories(lists[:64]), as_histories(lists[64:])])
    )
    known = [user for user, each in enumerate(lists) if each]
    assert len(parts) > 2
    assert np.concatenate([part.position for part in parts]).tolist() == known
    assert parts[-1].n_done == 100
    found = np.concatenate([part.embedding for part in parts])
    expected = mean_of_last([lists[user] for user in known], item_vectors(tiny_bundle))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_users_of_similar_length_share_a_batch(tiny_bundle: Bundle) -> None:
    lengths: list[list[int]] = []
    encoder = encoder_of(tiny_bundle, CPU.model_copy(update={"threads": 1}))
    run = encoder.session.run

    class Session:
        def get_providers(self) -> list[str]:
            return encoder.session.get_providers()

        def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            lengths.append(feed["item_seq_len"].tolist())
            return run(outputs, feed)

    replace(encoder, session=Session())(
        as_histories([[1] * n for n in (2, 9, 1, 5, 1, 4, 3, 7, 2, 5)])
    )
    assert lengths == [[5, 5, 5, 5], [4, 3, 2, 2], [1, 1]]


def test_embeddings_that_are_not_finite_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    table = np.full((4, 8), 3e38, np.float32)
    bundle = make_bundle(tmp_path / "big", ["a", "b", "c"], embedding=table)
    with pytest.raises(BundleError, match="embeddings that are NaN or infinite"):
        encoder_of(bundle)(as_histories([[1, 2, 3]]))
    table = np.full((4, 8), 1e25, np.float32)
    bundle = make_bundle(tmp_path / "less", ["a", "b", "c"], embedding=table)
    users = encoder_of(bundle).parts([as_histories([[1]])])
    with pytest.raises(BundleError, match="scores that are NaN or infinite"):
        find_audience(users, item_vectors(bundle), np.array([2]), 1, exclude_seen=True)


def brute(
    lists: list[list[int]], table: np.ndarray, items: list[int], n: int, *, exclude_seen: bool
) -> list[list[int]]:
    known = [user for user, each in enumerate(lists) if each]
    embedding = dict(zip(known, mean_of_last([lists[u] for u in known], table), strict=True))
    found = []
    for item in items:
        users = [u for u in known if not (exclude_seen and item in lists[u])]
        vector = table[item].astype(np.float64)
        best = sorted(users, key=lambda u: (-np.float32(embedding[u] @ vector), u))[:n]
        found.append(best + [-1] * (n - len(best)))
    return found


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("n", [1, 10, 300])
@pytest.mark.parametrize("tile", [2**21, 96, 5])
def test_an_audience_is_the_sort_of_all_users(
    n: int,
    exclude_seen: bool,
    tile: int,
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_encoder, "PART_USERS", 70)
    monkeypatch.setattr(audience, "TILE", tile)
    # Whole numbers and histories of 1, 2 or 4 items: exact means and products, and many ties.
    rng = np.random.default_rng(2)
    table = rng.integers(-2, 3, (41, 4)).astype(np.float32)
    table[0] = 0
    bundle = make_bundle(tmp_path / "ties", embedding=table)
    lists = [rng.integers(1, 41, rng.choice([0, 1, 2, 4])).tolist() for _ in range(250)]
    items = [7, 31, 2, 40]
    done: list[int] = []
    found = find_audience(
        encoder_of(bundle).parts([as_histories(lists)]), table, np.array(items), n,
        exclude_seen=exclude_seen, progress=done.append,
    )  # fmt: skip
    assert found.position.tolist() == brute(lists, table, items, n, exclude_seen=exclude_seen)
    assert done[-1] == 250


def test_only_what_counts_as_seen_leaves_a_user_out(tiny_bundle: Bundle) -> None:
    lists = random_lists(60, 4)
    histories = as_histories(lists)
    seen = np.random.default_rng(0).random(len(histories.items)) < 0.5
    users = encoder_of(tiny_bundle).parts([replace(histories, is_seen=seen)])
    found = find_audience(users, item_vectors(tiny_bundle), np.array([7]), 60, exclude_seen=True)
    bounds = zip(histories.offsets[:-1], histories.offsets[1:], strict=True)
    expected = {
        user
        for user, (a, b) in enumerate(bounds)
        if a < b and 7 not in histories.items[a:b][seen[a:b]]
    }
    assert {*found.position[found.position >= 0].tolist()} == expected
    assert any(7 in lists[user] for user in expected)


def test_nobody_may_be_left(tiny_bundle: Bundle) -> None:
    histories = UserHistories(
        pa.array([], pa.int64()), np.zeros(0, np.int64), np.zeros(1, np.int64)
    )
    users = encoder_of(tiny_bundle).parts([histories])
    found = find_audience(users, item_vectors(tiny_bundle), np.array([1]), 2, exclude_seen=True)
    assert found.position.tolist() == [[-1, -1]]
