"""The column `because`: the item of the history nearest to each listed one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ResumeError
from pipeline.scoring import because
from pipeline.scoring.because import NearestHistory
from pipeline.scoring.user_histories import UserHistories
from tests.helpers.scoring_cases import events, run, write_log, write_sequences

ITEMS, WIDTH = 6, 2
vectors = st.lists(st.tuples(*[st.integers(-2, 2)] * WIDTH), min_size=ITEMS, max_size=ITEMS)
histories = st.lists(st.lists(st.integers(1, ITEMS - 1), max_size=7), max_size=6)


def by_hand(table: list[tuple[int, ...]], own: list[int], item: int) -> int:
    """The nearest of one user's items: a plain loop."""
    best, found = -np.inf, 0
    for other in own:
        product = sum(x * y for x, y in zip(table[item], table[other], strict=True))
        norms = [sum(x * x for x in table[each]) ** 0.5 or 1.0 for each in (item, other)]
        cosine = np.float32(product / (norms[0] * norms[1]))
        if cosine >= best:
            best, found = cosine, other
    return found


@given(
    vectors, histories, st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 40, 2**21]),
    st.data(),
)  # fmt: skip
def test_it_is_the_nearest_of_the_last_items_and_of_equal_ones_the_most_recent(
    table: list[tuple[int, ...]], owned: list[list[int]], length: int, top_k: int, floats: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    lists = [
        data.draw(st.lists(st.integers(0, ITEMS - 1), min_size=top_k, max_size=top_k))
        for _ in owned
    ]
    everybody = UserHistories(
        pa.array(range(len(owned))),
        np.array([item for own in owned for item in own], np.int64),
        np.cumsum([0, *map(len, owned)]),
    )
    nearest = NearestHistory.over(np.array(table, np.float32), length, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(because, "_FLOATS", floats)
        found = nearest(everybody, np.array(lists, np.int64).reshape(len(owned), top_k))
    assert found.tolist() == [
        [by_hand(table, own[-length:], item) if item else 0 for item in each]
        for own, each in zip(owned, lists, strict=True)
    ]


@pytest.fixture(scope="module")
def clusters(
    make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """40 items in 4 clusters, a0, b0, c0, d0, a1, ...; later ones have longer embeddings."""
    random = np.random.default_rng(4)
    centres = np.eye(4, 16)[np.arange(40) % 4]
    items = (centres + random.normal(0, 0.02, (40, 16))) * np.arange(1, 41)[:, None]
    embedding = np.concatenate([np.zeros((1, 16)), items]).astype(np.float32)
    ids = [f"{'abcd'[item % 4]}{item // 4}" for item in range(40)]
    return make_bundle(tmp_path_factory.mktemp("bundles") / "clusters", ids, embedding=embedding)


HISTORIES = {
    "two": ["a0", "b9", "a1", "c0"],
    "far": ["d0", "a0", "b0", "a1", "c0", "b1"],  # d0 is before the last five
    "nobody": ["elsewhere"],
}


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    return write_sequences(tmp_path / "sequences.parquet", HISTORIES)


@pytest.mark.parametrize("layout", ["long", "list"])
def test_the_item_of_the_same_cluster_is_named(
    clusters: Bundle, sequences: Path, tmp_path: Path, layout: str
) -> None:
    run(sequences, clusters, tmp_path / "out", layout=layout, because=True, top_k=35)
    found = pq.read_table(tmp_path / "out").to_pylist()
    if layout == "list":
        found = [{**row, **entry} for row in found for entry in row["recommendations"]]
    named: dict[str, dict[str, set[str | None]]] = {user: {} for user in HISTORIES}
    for row in found:
        named[row["user_id"]].setdefault(row["item_id"][0], set()).add(row["because"])
    for cluster in "abc":
        own = [item for item in HISTORIES["two"] if item[0] == cluster]
        assert named["two"][cluster] <= set(own)
    assert named["two"]["b"] == {"b9"}
    assert "d0" not in named["far"]["d"]
    assert set().union(*named["nobody"].values()) == {None}


def test_without_it_the_columns_are_as_before(
    clusters: Bundle, sequences: Path, tmp_path: Path
) -> None:
    run(sequences, clusters, tmp_path / "without")
    run(sequences, clusters, tmp_path / "with", because=True)
    without, with_it = (pq.read_table(tmp_path / name) for name in ("without", "with"))
    assert with_it.column_names == [*without.column_names, "because"]
    times: dict[str, Any] = {"generated_at": None}
    assert [row | times for row in with_it.drop_columns(["because"]).to_pylist()] == [
        row | times for row in without.to_pylist()
    ]
    with pytest.raises(ResumeError, match="because"):
        run(sequences, clusters, tmp_path / "without", because=True, resume=True)


def test_no_users_have_the_column_too(clusters: Bundle, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.parquet", events(HISTORIES))
    for layout in ("long", "list"):
        out = tmp_path / layout
        run(log, clusters, out, layout=layout, because=True, active_within_days=1)
        table = pq.read_table(out)
        assert not len(table)
        assert "because" in str(table.schema)
