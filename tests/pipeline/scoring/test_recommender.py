"""The recommender: buffers on a device, and batches in them."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ConfigError
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import CUDA
from pipeline.schema import PAD
from pipeline.scoring import recommender
from pipeline.scoring.batches import ScoringBatch
from pipeline.scoring.recommender import Buffers, Recommender, load_recommender, sort_ties

TOP_K = 5


@pytest.fixture
def on_cpu(tiny_bundle: Bundle) -> Recommender:
    bias = np.zeros(tiny_bundle.n_items, np.float32)
    bias[PAD] = -np.inf
    return load_recommender(tiny_bundle.recommender, "cpu", item_bias=bias, top_k=TOP_K)


def batch_of(users: int, excluded: int, seed: int = 0) -> ScoringBatch:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 6, users)
    item_seq = random.integers(1, 39, (users, 5)) * (np.arange(5) < lengths[:, None])
    return ScoringBatch(
        np.arange(users), item_seq, lengths, random.integers(0, 39, (users, excluded))
    )


def test_a_recommender_goes_as_soon_as_nobody_uses_it(on_cpu: Recommender) -> None:
    gc.disable()  # segments make one each, with a table of all items
    try:
        gone = weakref.ref(on_cpu.giving(3, embeddings=False))
        assert gone() is None
    finally:
        gc.enable()


# Buffers: the same code as on a device, their memory here


def test_a_batch_in_buffers_that_are_too_large_gets_the_same(on_cpu: Recommender) -> None:
    buffers = Buffers(on_cpu, users=40, excluded=16)
    for seed, (users, excluded) in enumerate([(40, 16), (3, 0), (17, 9), (1, 16), (40, 1)]):
        batch = batch_of(users, excluded, seed)
        for found, expected in zip(
            buffers.run(batch, on_cpu.item_bias), on_cpu(batch), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_what_was_found_stays_when_the_buffers_are_used_again(on_cpu: Recommender) -> None:
    buffers = Buffers(on_cpu, users=8, excluded=16)
    first = buffers.run(batch_of(8, 3, seed=1), on_cpu.item_bias)
    kept = [values.copy() for values in first]
    buffers.run(batch_of(8, 3, seed=2), on_cpu.item_bias)
    for found, expected in zip(first, kept, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_thread_has_a_batch_of_its_own(tiny_bundle: Bundle, threads: int) -> None:
    bias = np.zeros(41, np.float32)
    graph = tiny_bundle.recommender
    loaded = load_recommender(graph, "cpu", item_bias=bias, top_k=TOP_K, threads=threads)
    assert loaded.at_once == threads
    assert loaded.session.get_session_options().intra_op_num_threads == 1


def test_buffers_are_made_once_a_shape(
    on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    class Counted(Buffers):
        def __init__(self, whose: Recommender, users: int, excluded: int) -> None:
            made.append((users, excluded))
            super().__init__(whose, users, excluded)

    monkeypatch.setattr(recommender, "Buffers", Counted)
    device = as_on_a_gpu(on_cpu, monkeypatch)
    for _ in range(device.at_once):
        for excluded in (3, 9, 16, 17, 30, 5, 1):  # one more than a multiple of `at_once`
            device(batch_of(61, excluded))
    # Each set of buffers makes its own.
    assert sorted(made) == [(64, 16)] * device.at_once + [(64, 32)] * device.at_once


def test_batches_that_are_on_a_device_at_once_do_not_share_buffers(
    on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [batch_of(64, 9, seed) for seed in range(200)]
    expected = [on_cpu(batch) for batch in batches]
    device = as_on_a_gpu(on_cpu, monkeypatch)
    assert device.at_once > 1
    with ThreadPoolExecutor(2 * device.at_once) as threads:
        for found, known in zip(threads.map(device, batches), expected, strict=True):
            for values, right in zip(found, known, strict=True):
                np.testing.assert_array_equal(values, right)


def as_on_a_gpu(on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    """A recommender that works as on a GPU, but in a CPU's memory."""
    monkeypatch.setattr(Recommender, "provider", CUDA)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", _to_cpu)
    device = Recommender(on_cpu.session, on_cpu.item_bias.numpy(), TOP_K, 64)
    assert device.where == ("cuda", 0)
    device.where = ("cpu", 0)
    return device.giving(TOP_K, embeddings=False)  # whose buffers are there, too


_ortvalue_from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy


def _to_cpu(values: np.ndarray[Any, Any], *_: Any) -> onnxruntime.OrtValue:
    return _ortvalue_from_numpy(values)


def test_a_device_that_fails_gives_one_line(
    on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: Buffers, *given: object) -> None:
        raise RuntimeError("Available memory of 0 is smaller than requested\nstack trace")

    monkeypatch.setattr(Recommender, "provider", CUDA)
    monkeypatch.setattr(Buffers, "run", out_of_memory)
    with pytest.raises(ConfigError, match=r"^a batch of 7 users: CUDA.*smaller than") as raised:
        on_cpu(batch_of(7, 2))
    assert "\n" not in str(raised.value)
    assert "score.batch_size" in str(raised.value)


@given(seed=st.integers(0, 2**32 - 1))
def test_ties_are_sorted_by_the_smaller_index(seed: int) -> None:
    random = np.random.default_rng(seed)
    users, k = random.integers(1, 6, 2)
    chosen = random.choice([-np.inf, -1.5, 0.0, 2.0], (users, k))
    score = -np.sort(-chosen, axis=1).astype(np.float32)
    item_index = np.argsort(random.random((users, 9)), axis=1)[:, :k]
    item_index[score == -np.inf] = PAD
    expected = [
        [item for _, item in sorted(zip(-score[user], item_index[user], strict=True))]
        for user in range(users)
    ]
    sort_ties(item_index, score)
    np.testing.assert_array_equal(item_index, expected)


@given(users=st.integers(1, 10**6), excluded=st.integers(0, 10**6))
def test_shapes_are_little_larger_than_the_batch(users: int, excluded: int) -> None:
    rows, columns = recommender._rows(users), recommender._columns(excluded)
    assert users <= rows <= users * 1.125
    assert max(excluded, 16) <= columns <= max(16, 2 * excluded)


def test_shapes_are_few() -> None:
    assert len({recommender._rows(users) for users in range(2048, 4097)}) == 9


@pytest.mark.parametrize("users", [1, 64, 256, 1024, 4096])
def test_a_full_batch_is_not_padded(users: int) -> None:
    assert recommender._rows(users) == users
