"""The answers: everybody's best items, beside brute force."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import CPU, CUDA, TENSORRT
from pipeline.errors import BundleError
from tests.helpers.scoring_cases import (
    RUN_DATE,
    assert_rows,
    brute_force,
    events,
    random_histories,
    rows,
    run,
    write_log,
    write_sequences,
)


def test_logs_are_scored_as_brute_force_scores_them(tiny_bundle: Bundle, tmp_path: Path) -> None:
    everybody = random_histories(300)
    log = events(everybody)
    write_log(tmp_path / "logs" / "dt=1" / "a.parquet", log[: len(log) // 2])
    write_log(tmp_path / "logs" / "dt=2" / "b.parquet", log[len(log) // 2 :])

    result = run(tmp_path / "logs", tiny_bundle, tmp_path / "out", batch_size=32)

    assert_rows(
        rows(tmp_path / "out"),
        {user: brute_force(tiny_bundle, mine) for user, mine in everybody.items()},
    )
    table = pq.read_table(tmp_path / "out")
    assert table["user_id"].to_pylist() == sorted(table["user_id"].to_pylist())
    assert set(table["model_version"].to_pylist()) == {"tiny-1"}
    assert set(table["run_date"].to_pylist()) == {RUN_DATE}
    assert len(set(table["generated_at"].to_pylist())) == 1
    known = {f"item{index}" for index in range(1, 41)}
    assert result.unknown_items == sum(
        item not in known for mine in everybody.values() for item in mine
    )
    assert result.n_users == 300
    assert result.n_rows == table.num_rows
    assert result.n_fallback == sum(not known & set(mine) for mine in everybody.values()) > 0
    assert result.provider == "CPUExecutionProvider"
    assert result.dropped == {}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_manifest.json",
        "part-00000.parquet",
    ]


def test_sequences_are_scored_like_the_logs_they_came_from(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    everybody = random_histories(120, seed=1)
    write_log(tmp_path / "logs" / "a.parquet", events(everybody))
    backwards = dict(reversed(everybody.items()))
    write_sequences(tmp_path / "sequences.parquet", backwards)

    from_logs = run(tmp_path / "logs", tiny_bundle, tmp_path / "from_logs")
    from_sequences = run(tmp_path / "sequences.parquet", tiny_bundle, tmp_path / "from_sequences")

    assert_rows(rows(tmp_path / "from_sequences"), rows(tmp_path / "from_logs"))
    assert list(rows(tmp_path / "from_sequences")) == list(backwards)  # the order they came in
    assert from_sequences.unknown_items == from_logs.unknown_items
    assert from_sequences.n_fallback == from_logs.n_fallback


def test_the_list_layout_says_the_same_as_the_long_one(tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_log(tmp_path / "log.parquet", events(random_histories(50)))
    run(tmp_path / "log.parquet", tiny_bundle, tmp_path / "long")
    run(tmp_path / "log.parquet", tiny_bundle, tmp_path / "list", layout="list")

    lists = pq.read_table(tmp_path / "list").to_pylist()

    assert len(lists) == 50
    assert {
        row["user_id"]: [(entry["item_id"], entry["score"]) for entry in row["recommendations"]]
        for row in lists
    } == rows(tmp_path / "long")


@pytest.mark.parametrize("layout", ["long", "list"])
def test_every_column_but_the_scores_has_a_dictionary(
    tiny_bundle: Bundle, tmp_path: Path, layout: str
) -> None:
    write_log(tmp_path / "log.parquet", events(random_histories(50)))
    run(tmp_path / "log.parquet", tiny_bundle, tmp_path / "out", layout=layout)
    group = pq.read_metadata(tmp_path / "out" / "part-00000.parquet").row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    plain = [column.path_in_schema for column in columns if not column.has_dictionary_page]
    assert [path.split(".")[-1] for path in plain] == ["score"]


def test_items_of_the_whole_history_are_excluded_not_only_the_last_ones(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    history = {"u": [f"item{index}" for index in range(1, 31)], "v": ["item1"]}
    path = write_sequences(tmp_path / "s.parquet", history)

    run(path, tiny_bundle, tmp_path / "out", top_k=20)
    included = run(path, tiny_bundle, tmp_path / "all", top_k=20, exclude_seen=False)

    found = rows(tmp_path / "out")
    assert {item for item, _ in found["u"]} == {f"item{index}" for index in range(31, 39)}
    assert_rows(
        rows(tmp_path / "all"),
        {user: brute_force(tiny_bundle, mine, 20, False) for user, mine in history.items()},
    )
    assert included.n_short == 0


def test_who_may_get_fewer_items_than_asked_for_is_counted(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    history = {"all": [f"item{index}" for index in range(1, 39)], "one": ["item1"]}
    path = write_sequences(tmp_path / "s.parquet", history)

    result = run(path, tiny_bundle, tmp_path / "out")
    run(path, tiny_bundle, tmp_path / "list", layout="list")

    assert result.n_short == 1
    assert result.n_users == 2
    assert set(rows(tmp_path / "out")) == {"one"}
    lists = pq.read_table(tmp_path / "list").to_pylist()
    assert [len(row["recommendations"]) for row in lists] == [0, 5]


def test_nobody_is_recommended_an_item_that_was_never_trained_on(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item40"], "v": []})
    run(path, tiny_bundle, tmp_path / "out", top_k=40)
    for mine in rows(tmp_path / "out").values():
        assert {item for item, _ in mine} == {f"item{index}" for index in range(1, 39)}


def test_users_without_a_known_item_get_popular_ones_marked_and_filtered(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "deny.txt").write_text("item1\nitem3\nno such item\n")
    history = {"stranger": ["elsewhere"], "nobody": [], "known": ["item2"]}
    path = write_sequences(tmp_path / "s.parquet", history)

    result = run(path, tiny_bundle, tmp_path / "out", deny=tmp_path / "deny.txt", top_k=3)

    table = pq.read_table(tmp_path / "out")
    source = dict(zip(table["user_id"].to_pylist(), table["source"].to_pylist(), strict=True))
    assert source == {"stranger": "popular", "nobody": "popular", "known": "model"}
    found = rows(tmp_path / "out")
    total = 38 * 39 / 2
    assert [item for item, _ in found["stranger"]] == ["item2", "item4", "item5"]
    np.testing.assert_allclose(
        [value for _, value in found["nobody"]], np.array([37, 35, 34]) / total
    )
    assert result.n_fallback == 2
    assert result.unknown_items == 1
    assert result.unknown_listed == 1


@pytest.mark.parametrize("form", ["text", "csv", "parquet"])
def test_allow_and_deny_bound_what_is_recommended(
    tiny_bundle: Bundle, tmp_path: Path, form: str
) -> None:
    allowed = [f"item{index}" for index in range(5, 12)]
    allow = tmp_path / f"allow.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"item_id": allowed}), allow)
    else:
        allow.write_text("\n".join([*(["item_id"] if form == "csv" else []), *allowed]))
    (tmp_path / "deny.txt").write_text("item7\n")
    history = random_histories(30)
    path = write_sequences(tmp_path / "s.parquet", history)

    result = run(path, tiny_bundle, tmp_path / "out", allow=allow, deny=tmp_path / "deny.txt")

    eligible = set(allowed) - {"item7"}
    expected = {
        user: brute_force(tiny_bundle, mine, allowed=eligible) for user, mine in history.items()
    }
    assert_rows(rows(tmp_path / "out"), expected)
    assert result.n_short == sum(len(mine) < 5 for mine in expected.values()) > 0
    assert result.unknown_listed == 0


def test_progress_counts_every_user_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_log(tmp_path / "log.parquet", events(random_histories(50)))
    seen: list[tuple[int, int | None]] = []
    run(
        tmp_path / "log.parquet",
        tiny_bundle,
        tmp_path / "out",
        batch_size=8,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (0, 50)
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)
    assert len(seen) > 6


def test_an_allow_list_that_leaves_nothing_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    for ids in ("", "elsewhere\n", "item39\n"):
        (tmp_path / "allow.txt").write_text(ids)
        with pytest.raises(ConfigError, match=r"allow\.txt.*no item is left"):
            run(path, tiny_bundle, tmp_path / "out", allow=tmp_path / "allow.txt")


GOLDEN_BUNDLE = Path(__file__).parents[2] / "golden/version_0_1/warehouse/models/20260602-0db89ae1"


@pytest.mark.parametrize("change", [-1, 1, 10**9])
@pytest.mark.parametrize(
    ("golden", "name"),
    [
        (False, "n_items"),
        (False, "MAX_ITEM_LIST_LENGTH"),
        (True, "n_items"),
        (True, "MAX_ITEM_LIST_LENGTH"),
        (True, "hidden_size"),
        (True, "n_heads"),
    ],
)
def test_a_description_of_another_model_than_the_graph_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, golden: bool, name: str, change: int
) -> None:
    original = GOLDEN_BUNDLE if golden else tiny_bundle.path
    shutil.copytree(original, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    described = json.loads(path.read_text())
    described["hyper_parameters"][name] += change
    path.write_text(json.dumps(described))
    inputs = write_sequences(tmp_path / "s.parquet", random_histories(9))

    with pytest.raises(BundleError, match=r"bundle"):
        run(inputs, Bundle.load(tmp_path / "bundle"), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_weights_that_are_nan_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[3, 2] = np.nan
    bundle = make_bundle(tmp_path / "nan", embedding=embedding)
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    with pytest.raises(BundleError, match=r"items\.bin row 3.*not finite"):
        run(path, bundle, tmp_path / "out")


def test_scores_that_are_nan_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[:, 1::2] = -1
    embedding[1:4] = 3e38  # finite, but their sum is not
    bundle = make_bundle(tmp_path / "huge", embedding=embedding)
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1", "item2", "item3"]})
    with pytest.raises(BundleError, match="NaN or infinite"):
        run(path, bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_that_are_infinite_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    # One dimension each, of either sign: some product is positive and too large, none is a NaN.
    embedding[9:] = np.concatenate([np.eye(16), -np.eye(16)]) * 3.4e38
    bundle = make_bundle(tmp_path / "huge", embedding=embedding)
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1", "item2"]})
    with pytest.raises(BundleError, match="NaN or infinite"):
        run(path, bundle, tmp_path / "out")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_is_an_error_and_no_fallback(
    tiny_bundle: Bundle, tmp_path: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    expected = {"cuda": CUDA, "tensorrt": TENSORRT}[provider]
    failure = None
    try:
        assert run(path, tiny_bundle, tmp_path / "out", provider=provider).provider == expected
    except ConfigError as error:
        failure = error
    if failure is not None:  # the usual case: there is no such device here
        assert f"expected {provider}" in str(failure)
        assert "--provider cpu" in str(failure)
        assert "\n" not in str(failure)
        assert not (tmp_path / "out").exists()
        assert capfd.readouterr() == ("", "")
    if provider == "cuda":
        found = run(path, tiny_bundle, tmp_path / "auto", provider="auto").provider
        assert found == (CPU if failure else CUDA)
