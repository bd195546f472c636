import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError
from pipeline import parts, providers, scorer
from pipeline.bundle import Bundle
from pipeline.errors import BundleError, InputError, PublishError, ResumeError, SchemaError
from pipeline.parts import Output
from pipeline.score import ScoreResult, score
from pipeline.settings import LogSettings, ScoreSettings

RUN_DATE = date(2026, 11, 20)
START = datetime(2026, 11, 1, tzinfo=UTC)

Log = list[tuple[Any, Any, Any]]
# --- what every test starts from


def write_log(path: Path, rows: Log) -> Path:
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "user_id": pa.array(users, None if rows else pa.string()),
            "item_id": pa.array(items, None if rows else pa.string()),
            "timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, path)
    return path


def write_sequences(path: Path, sequences: dict[Any, list[Any]], **columns: Any) -> Path:
    lists = pa.array(list(sequences.values()), pa.list_(pa.string()))
    pq.write_table(pa.table({"user_id": list(sequences), "item_ids": lists, **columns}), path)
    return path


def events(histories: dict[Any, list[Any]]) -> Log:
    """Rows in an order that only their times put right."""
    rows = [
        (user, item, START + timedelta(hours=hour))
        for user, items in histories.items()
        for hour, item in enumerate(items)
    ]
    return [rows[position] for position in np.random.default_rng(3).permutation(len(rows))]


def random_histories(users: int, seed: int = 0, longest: int = 12) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    return {
        f"user{user:03}": [f"item{item}" for item in rng.integers(1, 46, rng.integers(1, longest))]
        for user in range(users)
    }


def run(inputs: Path, bundle: Bundle, out: Path, **options: Any) -> ScoreResult:
    named = {
        name: options.pop(name) for name in list(options) if name in ScoreSettings.model_fields
    }
    settings = ScoreSettings(**{"provider": "cpu", "top_k": 5, **named})
    defaults = {"logs": LogSettings(), "run_date": RUN_DATE, "time_zone": "UTC"}
    return score([str(inputs)], bundle, out, settings, **{**defaults, **options})


def rows(out: Path) -> dict[Any, list[tuple[str, float]]]:
    """What a long output recommends to whom, in the order of the ranks."""
    found: dict[Any, list[tuple[str, float]]] = {}
    for row in pq.read_table(out).to_pylist():
        mine = found.setdefault(row["user_id"], [])
        assert row["rank"] == len(mine) + 1
        mine.append((row["item_id"], row["score"]))
    return found


def brute_force(
    bundle: Bundle,
    history: list[str],
    top_k: int = 5,
    exclude_seen: bool = True,
    allowed: set[str] | None = None,
) -> list[tuple[str, float]]:
    items = bundle.items().to_pylist()
    index = {row["item_id"]: row["item_index"] for row in items}
    table = np.fromfile(bundle.item_table, np.float32).reshape(bundle.n_items, -1)
    known = [index[item] for item in history if item in index]
    eligible = [
        row for row in items if row["popularity"] and (allowed is None or row["item_id"] in allowed)
    ]
    if not known:
        total = sum(row["popularity"] for row in items)
        scored = [(row["popularity"] / total, row) for row in eligible]
    else:
        user = table[known[-bundle.max_length :]].mean(0)
        scored = [
            (float(table[row["item_index"]] @ user), row)
            for row in eligible
            if not (exclude_seen and row["item_index"] in known)
        ]
    scored.sort(key=lambda pair: (-pair[0], pair[1]["item_index"]))
    return [(row["item_id"], value) for value, row in scored[:top_k]]


def assert_rows(found: dict[Any, list[tuple[str, float]]], expected: dict[Any, Any]) -> None:
    assert {user: [item for item, _ in mine] for user, mine in found.items()} == {
        user: [item for item, _ in mine] for user, mine in expected.items() if mine
    }
    for user, mine in found.items():
        np.testing.assert_allclose(
            [value for _, value in mine], [value for _, value in expected[user]], atol=1e-5
        )


# --- the answers


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


def test_a_line_of_a_file_of_ids_is_taken_as_it_stands(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    odd = ['"item1', 'it"em', "a,b", " spaced ", "tab\tbed", "'q'", "\\n", "é", "item_id"]
    bundle = make_bundle(tmp_path / "odd", item_ids=[*odd, "plain", "last"])
    path = write_sequences(tmp_path / "s.parquet", {"u": ["last"]})
    for number, (start, end) in enumerate([("", "\n"), ("\ufeff", "\r\n"), ("", "\n\r\n\n")]):
        deny = tmp_path / f"deny{number}.txt"
        deny.write_bytes((start + end.join(["item_id", *odd])).encode())
        result = run(path, bundle, tmp_path / f"out{number}", deny=deny)
        assert [item for item, _ in rows(tmp_path / f"out{number}")["u"]] == ["plain"]
        assert result.unknown_listed == 0
    deny.write_bytes(b"plain\n\xff\n")
    with pytest.raises(InputError, match=r"deny2\.txt: cannot be read: .*UTF8"):
        run(path, bundle, tmp_path / "out", deny=deny)


def test_bad_rows_repeats_and_later_events_are_counted_by_reason(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    good = [("u", "item1", START), ("u", "item2", START + timedelta(hours=1))]
    end = datetime(2026, 11, 20, 23, tzinfo=UTC)  # midnight in Paris
    bad = [
        (None, "item1", START),
        ("u", None, START),
        ("u", None, START),
        ("u", "item3", None),
        ("u", "item3", datetime(1980, 1, 1, tzinfo=UTC)),
        ("u", "item3", end),
    ]
    write_log(tmp_path / "a.parquet", [*bad, *good, good[0]])

    result = run(tmp_path / "a.parquet", tiny_bundle, tmp_path / "out", time_zone="Europe/Paris")

    assert result.dropped == {
        "null user_id": 1,
        "null item_id": 2,
        "null timestamp": 1,
        "timestamp before 1990": 1,
        "timestamp after the run date": 1,
    }
    assert result.duplicates == 1
    assert_rows(rows(tmp_path / "out"), {"u": brute_force(tiny_bundle, ["item1", "item2"])})


def test_events_of_equal_time_keep_the_order_of_files_and_rows(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    order = [f"item{index}" for index in (9, 4, 17, 2, 33, 8, 21, 5)]
    write_log(tmp_path / "logs/b.parquet", [("u", item, START) for item in order[4:]])
    write_log(tmp_path / "logs/a.parquet", [("u", item, START) for item in order[:4]])

    run(tmp_path / "logs", tiny_bundle, tmp_path / "out")

    assert_rows(rows(tmp_path / "out"), {"u": brute_force(tiny_bundle, order)})


def test_column_names_are_mapped_and_integer_ids_keep_their_type(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "numbers", item_ids=pa.array(range(100, 140)).to_pylist())
    log = pa.table(
        {
            "who": pa.array([7, 7, -3], pa.int32()),
            "what": pa.array([101, 102, 139], pa.int16()),
            "when": [1_790_000_000_000, 1_790_000_001_000, 1_790_000_002_000],
        }
    )
    pq.write_table(log, tmp_path / "log.parquet")
    names = LogSettings(user_id="who", item_id="what", timestamp="when", timestamp_unit="ms")

    run(tmp_path / "log.parquet", bundle, tmp_path / "out", logs=names)

    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("user_id").type == pa.int32()
    assert table.schema.field("item_id").type == pa.int64()
    assert set(table["user_id"].to_pylist()) == {-3, 7}


def test_only_the_users_asked_for_are_scored(tiny_bundle: Bundle, tmp_path: Path) -> None:
    history = random_histories(20)
    write_log(tmp_path / "log.parquet", events(history))
    write_sequences(tmp_path / "s.parquet", history)
    (tmp_path / "users.txt").write_text("user_id\nuser003\nuser011\nmissing\n")

    for name in ("log", "s"):
        result = run(
            tmp_path / f"{name}.parquet", tiny_bundle, tmp_path / name, users=tmp_path / "users.txt"
        )
        assert result.absent_users == 1
        assert result.n_users == 2
        assert_rows(
            rows(tmp_path / name),
            {user: brute_force(tiny_bundle, history[user]) for user in ("user003", "user011")},
        )


def test_only_active_users_are_scored_by_their_whole_history(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    ago = {
        days: datetime(2026, 11, 20, 12, tzinfo=UTC) - timedelta(days=days) for days in range(30)
    }
    log: Log = [("new", "item1", ago[20]), ("new", "item2", ago[6]), ("old", "item3", ago[7])]
    write_log(tmp_path / "log.parquet", log)
    write_sequences(
        tmp_path / "s.parquet",
        {"new": ["item1", "item2"], "old": ["item3"], "later": ["item4"], "empty": []},
        timestamps=[[ago[20], ago[6]], [ago[7]], [ago[0] + timedelta(days=1)], []],
    )

    for name in ("log", "s"):
        result = run(
            tmp_path / f"{name}.parquet", tiny_bundle, tmp_path / name, active_within_days=7
        )
        assert result.n_users == 1
        assert_rows(rows(tmp_path / name), {"new": brute_force(tiny_bundle, ["item1", "item2"])})
    write_sequences(tmp_path / "timeless.parquet", {"u": ["item1"]})
    with pytest.raises(ConfigError, match="timestamps"):
        run(tmp_path / "timeless.parquet", tiny_bundle, tmp_path / "x", active_within_days=7)


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


# --- parts, kills and resuming


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "PART_USERS", 16)


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Stop a run after so many steps: manifests saved, and parts deleted."""
    left = iter(range(step))

    def counted(original: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *args: Any, **kwargs: Any) -> None:
            if path.name != ".part.tmp" and next(left, None) is None:
                raise Killed
            original(path, *args, **kwargs)

        return call

    monkeypatch.setattr(parts, "replace_text", counted(parts.replace_text))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))


def kill_after(monkeypatch: pytest.MonkeyPatch, parts: int, *, when: str) -> None:
    """Stop a run as a kill would: between two parts, or after a rename and before the manifest."""
    original = getattr(Output, when)
    calls = 0

    def stop(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > parts:
            raise Killed
        original(*args, **kwargs)

    monkeypatch.setattr(Output, when, stop)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("parts", "when"), [(0, "write"), (2, "write"), (1, "_record"), (3, "_record")]
)
@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_a_resumed_run_leaves_the_table_of_an_undisturbed_one(
    tiny_bundle: Bundle, tmp_path: Path, parts: int, when: str, kind: str
) -> None:
    history = random_histories(70)
    path = tmp_path / f"{kind}.parquet"
    write_log(path, events(history)) if kind == "log" else write_sequences(path, history)
    whole = run(path, tiny_bundle, tmp_path / "whole")

    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, parts, when=when)
        with pytest.raises(Killed):
            run(path, tiny_bundle, tmp_path / "out")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    if kept:
        assert not json.loads((tmp_path / "out/_manifest.json").read_text())["complete"]
    resumed = run(path, tiny_bundle, tmp_path / "out", resume=True)

    assert pq.read_table(tmp_path / "out").drop(["generated_at"]) == (
        pq.read_table(tmp_path / "whole").drop(["generated_at"])
    )
    assert len(pc.unique(pq.read_table(tmp_path / "out")["generated_at"])) == 1
    assert (resumed.n_users, resumed.n_rows) == (whole.n_users, whole.n_rows)
    assert (resumed.n_fallback, resumed.n_short) == (whole.n_fallback, whole.n_short)
    assert resumed.unknown_items == whole.unknown_items
    if when == "write" and parts:
        assert all(file.stat().st_mtime_ns == before for file, before in kept.items())
        assert len(kept) == parts
    manifest = json.loads((tmp_path / "out/_manifest.json").read_text())
    assert manifest["complete"]
    assert len(manifest["parts"]) == 5
    assert not list((tmp_path / "out").glob(".*"))


def test_resuming_a_finished_run_changes_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    first = run(path, tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    again = run(path, tiny_bundle, tmp_path / "out", resume=True)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert (again.n_users, again.n_rows) == (first.n_users, first.n_rows)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("spoil", [Path.unlink, lambda part: part.write_bytes(b"")])
def test_resuming_scores_again_from_the_first_part_that_is_not_as_it_was(
    tiny_bundle: Bundle, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(70))
    whole = run(path, tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    files = sorted((tmp_path / "out").glob("part-*"))
    first = files[0].stat().st_mtime_ns
    spoil(files[2])

    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, 0, when="write")
        with pytest.raises(Killed):
            run(path, tiny_bundle, tmp_path / "out", resume=True)
    assert all(file.exists() for file in files if file != files[2])  # until one is replaced
    resumed = run(path, tiny_bundle, tmp_path / "out", resume=True)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert (resumed.n_users, resumed.n_rows) == (whole.n_users, whole.n_rows)
    assert files[0].stat().st_mtime_ns == first


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_whatever_moment_replacing_is_killed_at_the_folder_stays_our_own(
    tiny_bundle: Bundle, tmp_path: Path, flag: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(70))
    settings = {"top_k": 5 if flag == "resume" else 4}
    run(path, tiny_bundle, tmp_path / "whole", **settings)
    for step in range(8):  # the last of them after the first new part
        out = tmp_path / str(step)
        run(path, tiny_bundle, out)
        (out / "part-00000.parquet").write_bytes(b"")
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, step)
            with pytest.raises(Killed):
                run(path, tiny_bundle, out, **settings, **{flag: True})
        manifest = json.loads((out / "_manifest.json").read_text())
        assert manifest["complete"] == (step == 0)

        run(path, tiny_bundle, out, **settings, **{flag: True})

        assert rows(out) == rows(tmp_path / "whole")
        assert len(list(out.iterdir())) == 6


def test_a_run_is_not_resumed_with_another_bundle_input_or_settings(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    (tmp_path / "deny.txt").write_text("item1\n")
    deny = {"deny": tmp_path / "deny.txt", "resume": True}
    run(path, tiny_bundle, tmp_path / "out", deny=tmp_path / "deny.txt")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    other = make_bundle(tmp_path / "other", popularity=[1] * 40)
    with pytest.raises(ResumeError, match=r"bundle items\.parquet is not what it was"):
        run(path, other, tmp_path / "out", **deny)
    with pytest.raises(ResumeError, match="settings top_k is not what it was; expected 5; found 6"):
        run(path, tiny_bundle, tmp_path / "out", top_k=6, **deny)
    with pytest.raises(ResumeError, match="settings run_date"):
        run(path, tiny_bundle, tmp_path / "out", run_date=date(2026, 11, 21), **deny)
    (tmp_path / "deny.txt").write_text("item2\n")
    with pytest.raises(ResumeError, match=r"inputs .*deny\.txt"):
        run(path, tiny_bundle, tmp_path / "out", **deny)
    (tmp_path / "deny.txt").write_text("item1\n")
    write_sequences(path, random_histories(10))
    with pytest.raises(ResumeError, match=r"inputs .*s\.parquet"):
        run(path, tiny_bundle, tmp_path / "out", **deny)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_an_output_folder_that_is_not_empty_needs_a_flag(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    run(path, tiny_bundle, tmp_path / "out")

    with pytest.raises(ConfigError, match=r"not empty.*--overwrite"):
        run(path, tiny_bundle, tmp_path / "out")
    run(path, tiny_bundle, tmp_path / "out", top_k=2, overwrite=True)

    assert all(len(mine) == 2 for mine in rows(tmp_path / "out").values())
    (tmp_path / "out" / "mine.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"did not write.*mine\.parquet"):
        run(path, tiny_bundle, tmp_path / "out", overwrite=True)
    with pytest.raises(ConfigError, match="contradict"):
        run(path, tiny_bundle, tmp_path / "out", overwrite=True, resume=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_text("x")
    with pytest.raises(ResumeError, match="no run to resume"):
        run(path, tiny_bundle, tmp_path / "foreign", resume=True)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_only_what_the_manifest_lists_is_replaced(
    tiny_bundle: Bundle, tmp_path: Path, flag: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    out = tmp_path / "out"
    out.mkdir()
    theirs = write_log(out / "part-0.parquet", [("u", "item1", START)])
    with pytest.raises(ConfigError, match="no run to resume" if flag == "resume" else "did not"):
        run(path, tiny_bundle, out, **{flag: True})  # there is no manifest
    assert pq.read_table(theirs).num_rows == 1
    theirs.unlink()

    run(path, tiny_bundle, out)
    for name in ("part-0.parquet", "part-00002.parquet"):
        theirs = write_log(out / name, [("u", "item1", START)])
        with pytest.raises(ConfigError, match=rf"did not write.*found {name}\."):
            run(path, tiny_bundle, out, **{flag: True})
        assert pq.read_table(theirs).num_rows == 1
        theirs.unlink()

    (out / "_manifest.json").write_text("{")
    before = {file: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ConfigError, match=r"_manifest\.json"):
        run(path, tiny_bundle, out, **{flag: True})
    assert {file: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_an_output_folder_that_holds_an_input_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, flags: dict[str, bool]
) -> None:
    log = write_log(tmp_path / "logs" / "dt=1" / "a.parquet", [("u", "item1", START)])
    (tmp_path / "alias").symlink_to(tmp_path / "logs")
    sequences = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    run(sequences, tiny_bundle, tmp_path / "out")
    (tmp_path / "out" / "deny.txt").write_text("item1")
    taken = write_log(tmp_path / "out" / "part-00000.parquet", [("u", "item1", START)])

    for source, out, options in (
        (log.parent.parent, "logs", {}),
        (log, "alias", {}),
        (taken, "out", {}),
        (sequences, "out", {"deny": tmp_path / "out" / "deny.txt"}),
    ):
        with pytest.raises(ConfigError, match="the output folder holds an input"):
            run(source, tiny_bundle, tmp_path / out, **options, **flags)
    assert pq.read_table(log).num_rows == pq.read_table(taken).num_rows == 1


@pytest.mark.parametrize("output", ["s3://bucket/recs", Path("s3://bucket/recs")])
def test_an_output_in_an_object_store_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Any
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="must be a local folder"):
        run(path, tiny_bundle, output)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.parquet"]


def test_bad_input_loses_no_earlier_output(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(9))
    run(path, tiny_bundle, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    empty = write_log(tmp_path / "empty.parquet", [])
    with pytest.raises(InputError, match=r"empty\.parquet: no usable row.*found no rows at all"):
        run(empty, tiny_bundle, tmp_path / "out", overwrite=True)
    nobody = tmp_path / "nobody.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), nobody)
    with pytest.raises(InputError, match=r"nobody\.parquet: no rows in the sequences"):
        run(nobody, tiny_bundle, tmp_path / "out", overwrite=True)

    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.usefixtures("small_parts")
def test_a_full_disk_is_told_and_can_be_resumed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sequences(tmp_path / "s.parquet", random_histories(40))
    original = pq.write_table
    written = 0

    def full(*args: Any, **kwargs: Any) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(28, "No space left on device")
        original(*args, **kwargs)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(PublishError, match="No space left on device") as refusal:
        run(path, tiny_bundle, tmp_path / "out")
    assert refusal.value.exit_code == 1
    monkeypatch.undo()
    monkeypatch.setattr(scorer, "PART_USERS", 16)
    assert run(path, tiny_bundle, tmp_path / "out", resume=True).n_users == 40


# --- bad input


def test_a_k_beyond_the_catalogue_names_its_size(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    with pytest.raises(ConfigError, match="at most 40; found 41"):
        run(path, tiny_bundle, tmp_path / "out", top_k=41)
    assert not (tmp_path / "out").exists()


def test_an_allow_list_that_leaves_nothing_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    for ids in ("", "elsewhere\n", "item39\n"):
        (tmp_path / "allow.txt").write_text(ids)
        with pytest.raises(ConfigError, match=r"allow\.txt.*no item is left"):
            run(path, tiny_bundle, tmp_path / "out", allow=tmp_path / "allow.txt")


def test_ids_of_another_kind_are_refused(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    numbers = write_log(tmp_path / "n.parquet", [(1, 2, START)])
    with pytest.raises(SchemaError, match=r"n\.parquet.*expected string.*found int64.*Cast"):
        run(numbers, tiny_bundle, tmp_path / "out")
    of_numbers = make_bundle(tmp_path / "numbers", item_ids=list(range(1, 41)))
    (tmp_path / "deny.txt").write_text("item1\n")
    with pytest.raises(SchemaError, match=r"deny\.txt.*expected int64"):
        run(numbers, of_numbers, tmp_path / "out", deny=tmp_path / "deny.txt")
    pq.write_table(pa.table({"user_id": ["1"]}), tmp_path / "users.parquet")
    with pytest.raises(SchemaError, match=r"users\.parquet.*expected int64.*found string"):
        run(numbers, of_numbers, tmp_path / "out", users=tmp_path / "users.parquet")


def test_weights_that_are_no_numbers_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[3, 2] = np.nan
    bundle = make_bundle(tmp_path / "nan", embedding=embedding)
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    with pytest.raises(BundleError, match=r"items\.bin row 3.*not finite"):
        run(path, bundle, tmp_path / "out")


def test_scores_that_are_no_numbers_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[:, 1::2] = -1
    embedding[1:4] = 3e38  # finite, but their sum is not
    bundle = make_bundle(tmp_path / "huge", embedding=embedding)
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1", "item2", "item3"]})
    with pytest.raises(BundleError, match="no numbers"):
        run(path, bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_a_truncated_file_is_named_or_skipped_and_counted(
    tiny_bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        mine = {f"{name}-user": ["item1", "item2"]}
        path = tmp_path / "in" / f"{name}.parquet"
        write_log(path, events(mine)) if kind == "log" else write_sequences(path, mine)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    with pytest.raises(InputError, match=r"b\.parquet.*not a readable Parquet file") as refusal:
        run(tmp_path / "in", tiny_bundle, tmp_path / "out")
    assert refusal.value.exit_code == 2
    assert not (tmp_path / "out").exists()

    result = run(tmp_path / "in", tiny_bundle, tmp_path / "out", skip_bad_files=True)
    assert result.skipped_files == (str(path),)
    assert set(rows(tmp_path / "out")) == {"a-user"}


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_a_file_whose_pages_are_bad_behind_a_good_footer_is_named_or_skipped(
    tiny_bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        mine = {f"{name}-user": ["item1", "item2"]}
        path = tmp_path / "in" / f"{name}.parquet"
        write_log(path, events(mine)) if kind == "log" else write_sequences(path, mine)
    content = bytearray(path.read_bytes())
    content[4:80] = b"\xff" * 76
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"b\.parquet"):
        run(tmp_path / "in", tiny_bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    result = run(tmp_path / "in", tiny_bundle, tmp_path / "out", skip_bad_files=True)
    assert result.skipped_files == (str(path),)
    assert set(rows(tmp_path / "out")) == {"a-user"}


def test_bad_sequences_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"user_id": ["u", "u"], "item_ids": [["item1"], ["item2"]]}), path)
    with pytest.raises(InputError, match="'u': a user has more than one row"):
        run(path, tiny_bundle, tmp_path / "out")
    pq.write_table(pa.table({"user_id": ["u"], "item_ids": ["item1"]}), path)
    with pytest.raises(SchemaError, match="not usable as sequences"):
        run(path, tiny_bundle, tmp_path / "out")
    write_sequences(path, {"u": ["item1", "item2"]}, timestamps=[[START]])
    with pytest.raises(InputError, match=r"'u'.*differ in length; expected 2; found 1"):
        run(path, tiny_bundle, tmp_path / "out")
    write_log(tmp_path / "both" / "log.parquet", [("u", "item1", START)])
    write_sequences(tmp_path / "both" / "s.parquet", {"u": ["item1"]})
    with pytest.raises(SchemaError, match="cannot be scored together"):
        run(tmp_path / "both", tiny_bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_null_ids_in_sequences_are_counted(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1", None], None: ["item2"]})
    result = run(path, tiny_bundle, tmp_path / "out")
    assert result.dropped == {"null user_id": 1, "null item_id": 1}
    assert_rows(rows(tmp_path / "out"), {"u": brute_force(tiny_bundle, ["item1"])})


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_is_an_error_and_no_fallback(
    tiny_bundle: Bundle, tmp_path: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]})
    wanted = {"cuda": providers.CUDA, "tensorrt": providers.TENSORRT}[provider]
    failure = None
    try:
        assert run(path, tiny_bundle, tmp_path / "out", provider=provider).provider == wanted
    except ConfigError as error:
        failure = error
    if failure is not None:  # the usual case: there is no such device here
        assert f"expected {provider}" in str(failure)
        assert "--provider cpu" in str(failure)
        assert "\n" not in str(failure)
        assert not (tmp_path / "out").exists()
        assert capfd.readouterr() == ("", "")
    assert run(path, tiny_bundle, tmp_path / "auto", provider="auto").provider.endswith("Provider")
