"""The recommender: buffers on a device, and batches in them."""

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
from pipeline.scoring.recommender import Buffers, Recommender, load_recommender

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


# Buffers: the same code as on a device, their memory here


def test_a_batch_in_buffers_that_are_too_large_gets_the_same(on_cpu: Recommender) -> None:
    buffers = Buffers(on_cpu, users=40, excluded=16)
    for seed, (users, excluded) in enumerate([(40, 16), (3, 0), (17, 9), (1, 16), (40, 1)]):
        batch = batch_of(users, excluded, seed)
        for found, expected in zip(buffers.run(batch), on_cpu(batch), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_was_found_stays_when_the_buffers_are_used_again(on_cpu: Recommender) -> None:
    buffers = Buffers(on_cpu, users=8, excluded=16)
    first = buffers.run(batch_of(8, 3, seed=1))
    kept = [values.copy() for values in first]
    buffers.run(batch_of(8, 3, seed=2))
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
    monkeypatch.setattr(Recommender, "provider", CUDA)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", _to_cpu)
    device = Recommender(on_cpu.session, np.zeros(41, np.float32), TOP_K, 64)
    assert device.where == ("cuda", 0)
    device.where = ("cpu", 0)
    assert device.at_once == 1
    for users, excluded in [(64, 3), (64, 9), (61, 16), (64, 17), (64, 30), (64, 5)]:
        device(batch_of(users, excluded))
    assert made == [(64, 16), (64, 32)]


_ortvalue_from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy


def _to_cpu(values: np.ndarray[Any, Any], *_: Any) -> onnxruntime.OrtValue:
    return _ortvalue_from_numpy(values)


def test_a_device_that_fails_gives_one_line(
    on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: Buffers, batch: ScoringBatch) -> None:
        raise RuntimeError("Available memory of 0 is smaller than requested\nstack trace")

    monkeypatch.setattr(Recommender, "provider", CUDA)
    monkeypatch.setattr(Buffers, "run", out_of_memory)
    with pytest.raises(ConfigError, match=r"^a batch of 7 users: CUDA.*smaller than") as raised:
        on_cpu(batch_of(7, 2))
    assert "\n" not in str(raised.value)
    assert "--batch-size" in str(raised.value)


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
