"""The running best N against a sort of all exact scores, whatever the tiles and the ties."""

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.related.running_top import RunningTop, pair_products, product_error


def brute(left: np.ndarray, right: np.ndarray, n: int) -> tuple[list[list[int]], list[list[float]]]:
    scores = (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32)
    order = [sorted(range(len(right)), key=lambda i, row=row: (-row[i], i))[:n] for row in scores]
    pad = [-1] * max(0, n - len(right))
    found = [[float(row[i]) for i in best] for row, best in zip(scores, order, strict=True)]
    return [best + pad for best in order], [each + [-np.inf] * len(pad) for each in found]


def search(left: np.ndarray, right: np.ndarray, n: int, tile: int) -> tuple[list, list]:
    top = RunningTop(len(left), n)
    norms = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1).max(initial=0)
    error = (product_error(left.shape[1]) * norms).astype(np.float32)
    for begin in range(0, len(right), tile):
        part = right[begin : begin + tile]

        def exact(rows: np.ndarray, columns: np.ndarray, part: np.ndarray = part) -> np.ndarray:
            return pair_products(left, part, rows, columns).astype(np.float32)

        top.offer(left @ part.T, np.arange(begin, begin + len(part)), error, exact)
    index, score = top.best()
    return index.tolist(), score.tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    columns=st.integers(1, 300),
    n=st.integers(1, 12),
    tile=st.integers(1, 300),
    levels=st.sampled_from([1, 2, 5]),
)
@tuned(max_examples=150)
def test_it_is_the_sort_of_all_with_many_ties(
    seed: int, rows: int, columns: int, n: int, tile: int, levels: int
) -> None:
    # Small whole numbers, so that products are exact and many of them are equal.
    rng = np.random.default_rng(seed)
    left = rng.integers(-levels, levels + 1, (rows, 3)).astype(np.float32)
    right = rng.integers(-levels, levels + 1, (columns, 3)).astype(np.float32)
    assert search(left, right, n, tile) == brute(left, right, n)


@pytest.mark.parametrize("tile", [37, 640, 5000])
def test_equal_columns_are_ties_whatever_the_product_rounds(tile: int) -> None:
    rng = np.random.default_rng(3)
    left = rng.normal(size=(7, 64)).astype(np.float32)
    few = rng.normal(size=(50, 64)).astype(np.float32)
    kind = rng.integers(0, len(few), 3000)
    index, score = search(left, few[kind], 100, tile)
    for row, found, best in zip(left.tolist(), index, score, strict=True):
        exact = [math.fsum(map(operator.mul, row, each)) for each in few.tolist()]
        expected = sorted(range(3000), key=lambda i, exact=exact: (-exact[kind[i]], i))[:100]
        assert found == expected
        np.testing.assert_allclose(best, [exact[kind[i]] for i in expected], rtol=1e-6)


def test_a_product_that_is_off_by_its_error_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    exact = rng.normal(size=(4, 2000)).astype(np.float32)
    error = np.float32(0.05)
    near = exact + rng.uniform(-1, 1, exact.shape).astype(np.float32) * error * np.float32(0.99)
    top = RunningTop(4, 30)
    for begin in range(0, 2000, 500):
        part = slice(begin, begin + 500)
        top.offer(
            near[:, part], np.arange(2000)[part], error,
            lambda rows, columns, begin=begin: exact[rows, columns + begin],
        )  # fmt: skip
    index, score = top.best()
    assert index.tolist() == np.argsort(-exact, axis=1, kind="stable")[:, :30].tolist()
    assert (np.diff(score) <= 0).all()
    # The product alone would have found others.
    assert index.tolist() != np.argsort(-near, axis=1, kind="stable")[:, :30].tolist()


def test_columns_that_a_row_must_not_have_are_left_out() -> None:
    scores = np.array([[3, -np.inf, 1], [-np.inf, -np.inf, -np.inf]], np.float32)
    top = RunningTop(2, 2)
    top.offer(scores, np.array([7, 8, 9]), 0.0, lambda rows, columns: scores[rows, columns])
    index, score = top.best()
    assert index.tolist() == [[7, 9], [-1, -1]]
    assert score.tolist() == [[3, 1], [-np.inf, -np.inf]]


def test_pairs_may_come_in_any_order_and_zeros_of_either_sign_are_equal() -> None:
    top = RunningTop(2, 3)
    rows = np.array([1, 0, 1, 1, 1])
    scores = np.array([0.0, 5, -0.0, -1e-45, 0.0], np.float32)
    top.take(rows, np.array([4, 2**32 - 1, 3, 0, 9]), scores)
    top.take(np.array([1]), np.array([1]), np.array([-2], np.float32))
    index, score = top.best()
    assert index.tolist() == [[2**32 - 1, -1, -1], [3, 4, 9]]
    assert score[0].tolist() == [5, -np.inf, -np.inf]
