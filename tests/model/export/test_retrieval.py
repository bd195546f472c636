"""Retrieval returns what sorting every score would, in each of its forms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import model.export.retrieval
from model.export.graphs import OPSET
from model.export.quantize import BLOCK_ITEMS, ITEM_LEVELS, TILE_ITEMS, USER_LEVELS, quantize
from model.export.retrieval import add_retrieval
from model.training.weights import ITEM_TABLE

Array = npt.NDArray[Any]
FORMS = ("plain", "blocks", "pooled", "two-pass")
Run = Callable[..., tuple[Array, Array]]


def retrieval(table: Array, form: str) -> Run:
    """A session of retrieval alone: users' embeddings are an input."""
    graph = helper.make_graph(
        [],
        "retrieval",
        [helper.make_tensor_value_info("user_embedding", TensorProto.FLOAT, ["B", table.shape[1]])],
        [helper.make_tensor_value_info("user_embedding", TensorProto.FLOAT, ["B", table.shape[1]])],
        [numpy_helper.from_array(table, ITEM_TABLE)],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    with pytest.MonkeyPatch.context() as patch:
        for name, forms in {
            "BLOCKS_FROM": ("blocks", "pooled"),
            "TWO_PASS_FROM": ("pooled",),
        }.items():
            patch.setattr(model.export.retrieval, name, 0 if form in forms else 10**9)
        add_retrieval(built, len(table), quantize(table) if form == "two-pass" else None)
    onnx.checker.check_model(built, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        built.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(users: Array, k: int, exclude: Array | None = None, bias: Array | None = None) -> Any:
        exclude = np.zeros((len(users), 0), np.int64) if exclude is None else exclude
        bias = np.zeros(len(table), np.float32) if bias is None else bias
        feeds = {"user_embedding": users, "exclude": exclude, "item_bias": bias}
        return session.run(["item_index", "score"], {**feeds, "k": np.array([k])})

    return run


def best(
    users: Array, table: Array, k: int, exclude: Array | None = None, bias: Array | None = None
) -> tuple[Array, Array]:
    """A stable sort of every score, in float64."""
    scores = users.astype(np.float64) @ table.T.astype(np.float64)
    scores += 0 if bias is None else bias
    scores[:, 0] = -np.inf
    if exclude is not None:
        np.put_along_axis(scores, exclude, -np.inf, axis=1)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    score = np.take_along_axis(scores, index, axis=1)
    return np.where(score == -np.inf, 0, index), score


def whole_numbers(random: np.random.Generator, *shape: int) -> Array:
    """Float32 dot products of these are exact, and many are equal."""
    return random.integers(-3, 4, shape).astype(np.float32)


# Equal to sorting, with ties in every place


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(data=st.data())
def test_the_result_is_that_of_a_stable_sort(form: str, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    n_items = data.draw(st.integers(2, 2 * TILE_ITEMS + 300), label="V")
    dimensions = data.draw(st.sampled_from([1, 5, 16]), label="D")
    table = whole_numbers(random, n_items, dimensions)
    run = retrieval(table, form)
    for _ in range(4):
        users = whole_numbers(random, data.draw(st.integers(1, 5), label="B"), dimensions)
        k = data.draw(
            st.one_of(st.integers(1, n_items), st.integers(1, min(20, n_items))), label="k"
        )
        width = data.draw(st.sampled_from([0, 1, 40]), label="E")
        exclude = random.integers(0, n_items, (len(users), width))
        bias = data.draw(
            st.sampled_from(["none", "few", "many", "shifted", "mixed", "all"]), label="bias"
        )
        item_bias = {
            "none": np.zeros(n_items),
            "few": np.where(random.random(n_items) < 0.05, -np.inf, 0),
            "many": np.where(random.random(n_items) < 0.98, -np.inf, 0),
            "shifted": random.integers(-9, 10, n_items),
            "mixed": np.where(
                random.random(n_items) < 0.3, -np.inf, random.integers(-9, 10, n_items)
            ),
            "all": np.full(n_items, -np.inf),
        }[bias].astype(np.float32)
        index, score = run(users, k, exclude, item_bias)
        expected_index, expected_score = best(users, table, k, exclude, item_bias)
        assert (index.dtype, score.dtype) == (np.int64, np.float32)
        np.testing.assert_array_equal(score, expected_score)
        np.testing.assert_array_equal(index, expected_index)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_real_scores_come_in_their_order(form: str, k: int) -> None:
    """Items may change places only where float32 cannot tell their scores apart."""
    random = np.random.default_rng(k)
    table = random.standard_normal((20_000, 64), np.float32)
    table *= random.lognormal(0, 0.5, (len(table), 1)).astype(np.float32)
    users = random.standard_normal((30, 64), np.float32)
    exclude = best(users, table, 7)[0][:, ::2]  # of the best
    index, score = retrieval(table, form)(users, k, exclude)
    expected_index, expected_score = best(users, table, k, exclude)
    np.testing.assert_allclose(score, expected_score, rtol=1e-5)
    assert (np.diff(score) <= 0).all()
    wrong = index != expected_index
    assert wrong.mean() < 0.01
    own = np.einsum("bd,bkd->bk", users.astype(np.float64), table[index])
    np.testing.assert_allclose(own, expected_score, rtol=1e-5)
    assert all(len(set(row)) == k for row in index.tolist())


@pytest.mark.parametrize("offsets", ["none", "cancelling", "large"])
@pytest.mark.parametrize("form", FORMS)
def test_the_order_is_that_of_the_scores_the_graph_computes(form: str, offsets: str) -> None:
    """Asked for everything it tells every score; the first of a stable sort are its answer."""
    random = np.random.default_rng(5)
    table = random.standard_normal((3000, 64), np.float32)
    table[1::3] = table[1]  # also where a matrix product might round one copy otherwise
    users = random.standard_normal((9, 64), np.float32)
    bias = {
        "none": np.zeros(len(table), np.float32),
        "cancelling": -(table @ users[0]),  # the first user's scores are all close to zero
        "large": random.choice(np.array([0, 1e3, 1e6, -1e6], np.float32), len(table)),
    }[offsets]
    bias[5::7] = bias[5]
    run = retrieval(table, form)
    every_index, every_score = run(users, len(table), bias=bias)
    scores = np.empty_like(every_score)
    np.put_along_axis(scores, every_index, every_score, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 9, 200, len(table)):
        index, score = run(users, k, bias=bias)
        kept = order[:, : min(k, len(table) - 1)]  # PAD comes last, as an empty place
        np.testing.assert_array_equal(index[:, : len(table) - 1], kept)
        np.testing.assert_array_equal(
            score[:, : len(table) - 1], np.take_along_axis(scores, kept, axis=1)
        )


@pytest.mark.parametrize("form", FORMS)
def test_equal_items_come_by_their_index_from_all_over_the_catalogue(form: str) -> None:
    table = np.zeros((5120, 8), np.float32)
    twins = np.array([3, 17, 900, 1023, 1024, 2050, 4000, 5119])
    table[twins] = 1
    index, score = retrieval(table, form)(np.ones((2, 8), np.float32), 12)
    np.testing.assert_array_equal(index, [[*twins, 1, 2, 4, 5]] * 2)
    np.testing.assert_array_equal(score, [[8] * 8 + [0] * 4] * 2)


@pytest.mark.parametrize("form", FORMS)
def test_each_user_has_exclusions_of_its_own(form: str) -> None:
    random = np.random.default_rng(2)
    table = whole_numbers(random, 3000, 8)
    users = np.repeat(whole_numbers(random, 1, 8), 3, axis=0)
    first = best(users, table, 400)[0][0]
    exclude = np.zeros((3, 300), np.int64)
    exclude[1, :300], exclude[2, :1] = first[:300], first[0]
    index, _ = retrieval(table, form)(users, 100, exclude)
    np.testing.assert_array_equal(index, [first[:100], first[300:], first[1:101]])


# Users and items at the limits of float32


@pytest.mark.parametrize("form", FORMS)
def test_a_user_of_zeros_gets_the_first_items(form: str) -> None:
    table = np.random.default_rng(0).standard_normal((2000, 16), np.float32)
    index, score = retrieval(table, form)(np.zeros((1, 16), np.float32), 5)
    np.testing.assert_array_equal(index, [[1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(score, np.zeros((1, 5)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_sizes_far_apart_lose_nothing(form: str, size: float) -> None:
    """One row or user may be larger than the others by orders of magnitude."""
    random = np.random.default_rng(1)
    table = whole_numbers(random, 3000, 8)
    table[1500:1700] *= np.float32(2.0) ** np.round(np.log2(size))
    users = whole_numbers(random, 4, 8)
    users[2] *= np.float32(2.0) ** np.round(np.log2(size))
    index, score = retrieval(table, form)(users, 300)
    expected_index, expected_score = best(users, table, 300)
    np.testing.assert_array_equal(score, expected_score.astype(np.float32))
    np.testing.assert_array_equal(index, expected_index)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("large", [2.0**27, -(2.0**27)])
def test_scores_that_a_large_bias_rounds_to_equal_ones_come_by_index(
    form: str, large: float
) -> None:
    random = np.random.default_rng(1)
    table, users = whole_numbers(random, 3000, 8), whole_numbers(random, 20, 8)
    bias = np.full(3000, -np.inf, np.float32)
    bias[500:2100] = large  # whose neighbours are 8 and 16 away
    scores = (users @ table.T).astype(np.float32) + bias
    for k in (10, 300):
        index, score = retrieval(table, form)(users, k, bias=bias)
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_array_equal(score, np.take_along_axis(scores, expected, axis=1))


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_are_no_numbers_are_not_hidden(form: str) -> None:
    table = np.ones((3000, 8), np.float32)
    users = np.ones((2, 8), np.float32)
    users[1, 3] = np.nan
    _, score = retrieval(table, form)(users, 4)
    np.testing.assert_array_equal(score[0], [8] * 4)
    assert np.isnan(score[1]).any()


# The codes of the first pass


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    n_items=st.integers(1, TILE_ITEMS + 40),
    dimensions=st.sampled_from([1, 16, 64]),
    spread=st.floats(0, 4),
)
def test_no_score_is_further_off_than_the_bound(
    seed: int, n_items: int, dimensions: int, spread: float
) -> None:
    random = np.random.default_rng(seed)
    table = random.standard_normal((n_items, dimensions), np.float32)
    table *= random.lognormal(0, spread, (n_items, 1)).astype(np.float32)
    user = random.standard_normal(dimensions)
    step = np.abs(user).max() / USER_LEVELS
    coded_user = np.rint(user / step) * step
    codes = quantize(table)
    scale, error = (
        np.repeat(part.reshape(-1, part.shape[-1]), BLOCK_ITEMS, axis=0)[:n_items]
        for part in (codes.scale, codes.error)
    )
    level = codes.code.reshape(-1, dimensions)[:n_items].astype(np.float64) - int(codes.zero)
    assert np.abs(level).max() <= ITEM_LEVELS
    off = np.abs(table.astype(np.float64) @ user - (level * scale) @ coded_user)
    bound = error @ [np.linalg.norm(user - coded_user), np.linalg.norm(user)]
    assert (off <= bound).all()
    if spread == 0 and dimensions > 1:  # and it is no idle one
        assert bound.max() < 0.2 * np.linalg.norm(user) * np.linalg.norm(table, axis=1).max()


def test_codes_do_not_overflow_16_bits_in_pairs() -> None:
    """As x86 without VNNI adds them up."""
    assert 2 * (2 * ITEM_LEVELS + 1) * USER_LEVELS < 2**15
