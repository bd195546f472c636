"""What is scored: the rows, files and users of the input that count."""

import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError
from pipeline.bundles.bundle import Bundle
from pipeline.config.sections import LogSettings
from pipeline.errors import InputError, MemoryShortError, SchemaError
from tests.helpers.scoring_cases import (
    START,
    Log,
    assert_rows,
    brute_force,
    events,
    random_histories,
    rows,
    run,
    write_log,
    write_sequences,
)


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


@pytest.mark.parametrize("ids", [range(100, 140), [f"{n}" for n in range(100, 140)]])
def test_item_ids_of_csv_logs_are_of_the_bundles_type(
    ids: Sequence[Any], make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", item_ids=ids)
    for item, name in (("101", "one"), ("x", "other")):
        text = f"user_id,item_id,timestamp\n7,{item},2026-06-01\n7,139,2026-06-02\n"
        (tmp_path / f"{name}.csv").write_text(text)

    run(tmp_path / "one.csv", bundle, tmp_path / "out")

    table = pq.read_table(tmp_path / "out")
    assert table["user_id"].unique().to_pylist() == ["7"]
    assert set(table["item_id"].to_pylist()) < set(ids) - {ids[1], ids[39]}
    if isinstance(ids, range):
        with pytest.raises(SchemaError, match="the text 'x', where ids are integers"):
            run(tmp_path / "other.csv", bundle, tmp_path / "refused")


def test_only_the_listed_users_are_scored(tiny_bundle: Bundle, tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"deny2\.txt: cannot be read; .*found .*UTF8"):
        run(path, bundle, tmp_path / "out", deny=deny)


@pytest.mark.parametrize(
    "listed", [" item1", "item1\t", '"item1"', "'item1'", ' "item1 " ', "\u00a0item1 "]
)
@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_a_denied_id_in_quotes_or_white_space_is_denied(
    tiny_bundle: Bundle, tmp_path: Path, listed: str, kind: str
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item2"], "nobody": []})
    deny = tmp_path / "deny"
    if kind == "text":
        deny.write_text(f"{listed}\nanother\n")
    else:
        pq.write_table(pa.table({"item_id": [listed, "another"]}), deny)
    result = run(path, tiny_bundle, tmp_path / "out", deny=deny, top_k=37)
    assert result.unknown_listed == 1
    found = rows(tmp_path / "out")
    assert all(len(mine) == 37 or user == "u" for user, mine in found.items())
    assert "item1" not in {item for mine in found.values() for item, _ in mine}


def test_a_number_in_quotes_or_white_space_is_denied(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "numbers", item_ids=[7, 8, 9, 10])
    path = write_log(tmp_path / "n.parquet", [(1, 10, START)])
    (tmp_path / "deny.txt").write_text(' 7\n"8"\n')
    run(path, bundle, tmp_path / "out", deny=tmp_path / "deny.txt", top_k=4)
    assert [item for item, _ in rows(tmp_path / "out")[1]] == [9]


@pytest.mark.parametrize("listed", [["other1", "other2"], ["item1,item2"]])
def test_a_deny_file_of_which_nothing_is_known_is_refused_unless_accepted(
    tiny_bundle: Bundle, tmp_path: Path, listed: list[str]
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item2"]})
    deny = tmp_path / "deny.txt"
    deny.write_text("\n".join(listed))
    with pytest.raises(ConfigError, match=r"deny\.txt: none of the ids.*accept_unknown_deny"):
        run(path, tiny_bundle, tmp_path / "out", deny=deny)
    assert not (tmp_path / "out").exists()
    result = run(path, tiny_bundle, tmp_path / "out", deny=deny, accept_unknown_deny=True)
    assert result.unknown_listed == len(listed)
    deny.write_text("item_id\n")  # nothing is denied today
    assert run(path, tiny_bundle, tmp_path / "empty", deny=deny).unknown_listed == 0


def test_ids_of_another_kind_are_refused(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    numbers = write_log(tmp_path / "n.parquet", [(1, 2, START)])
    with pytest.raises(SchemaError, match=r"n\.parquet.*expected string.*found int64.*Cast"):
        run(numbers, tiny_bundle, tmp_path / "out")
    of_numbers = make_bundle(tmp_path / "numbers", item_ids=list(range(1, 41)))
    (tmp_path / "deny.txt").write_text("item1\n")
    with pytest.raises(SchemaError, match=r"deny\.txt.*expected numbers \(int64\)"):
        run(numbers, of_numbers, tmp_path / "out", deny=tmp_path / "deny.txt")
    pq.write_table(pa.table({"user_id": ["1"]}), tmp_path / "users.parquet")
    with pytest.raises(SchemaError, match=r"users\.parquet.*expected int64.*found string"):
        run(numbers, of_numbers, tmp_path / "out", users=tmp_path / "users.parquet")


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_ids_too_wide_for_the_data_are_unknown(
    make_bundle: Callable[..., Bundle], tmp_path: Path, kind: str
) -> None:
    bundle = make_bundle(tmp_path / "int32", item_ids=np.arange(1, 9, dtype=np.int32))
    user, item = pa.array([1, 2], pa.int32()), pa.array([1, 3], pa.int32())
    columns: dict[str, Any] = {"item_id": item, "timestamp": [START] * 2}
    if kind == "sequences":
        columns = {"item_ids": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), item)}
    pq.write_table(pa.table({"user_id": user, **columns}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"item_id": [5, 6, 2**33]}), tmp_path / "deny")
    (tmp_path / "allow").write_text("1\n2\n5\n7\n8589934592\n")
    pq.write_table(pa.table({"user_id": [2, 2**33]}), tmp_path / "users")
    lists = {name: str(tmp_path / name) for name in ("allow", "deny", "users")}
    result = run(tmp_path / "in.parquet", bundle, tmp_path / "out", **lists)
    assert (result.unknown_listed, result.absent_users) == (2, 1)
    found = {user: {item for item, _ in mine} for user, mine in rows(tmp_path / "out").items()}
    assert found == {2: {1, 2, 7}}
    types = pq.read_table(tmp_path / "out").schema
    assert (types.field("user_id").type, types.field("item_id").type) == (pa.int32(),) * 2


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def bad_pages(content: bytes) -> bytes:
    return content[:4] + b"\xff" * 76 + content[80:]  # behind a good footer


@pytest.mark.parametrize("kind", ["log", "sequences"])
@pytest.mark.parametrize("spoil", [truncated, bad_pages])
def test_a_file_that_cannot_be_read_is_named_or_skipped_and_counted(
    tiny_bundle: Bundle, tmp_path: Path, kind: str, spoil: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        mine = {f"{name}-user": ["item1", "item2"]}
        path = tmp_path / "in" / f"{name}.parquet"
        write_log(path, events(mine)) if kind == "log" else write_sequences(path, mine)
    path.write_bytes(spoil(path.read_bytes()))

    with pytest.raises(InputError, match=r"b\.parquet: not a readable Parquet file") as refusal:
        run(tmp_path / "in", tiny_bundle, tmp_path / "out")
    assert refusal.value.exit_code == 2
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


@pytest.mark.parametrize(
    "times",
    [
        [1_790_000_000],
        pa.array([None]),
        [[True]],
    ],
    ids=["no lists", "nulls", "truths"],
)
def test_times_of_sequences_that_are_no_lists_of_times_are_refused(
    tiny_bundle: Bundle, tmp_path: Path, times: object
) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1"]}, timestamps=times)
    with pytest.raises(SchemaError, match=r"s\.parquet: not usable as sequences.*timestamps"):
        run(path, tiny_bundle, tmp_path / "out")


@pytest.mark.parametrize("name", [b"caf\xe9/x.parquet", b"caf\xe9.parquet", b"caf\xe9.txt"])
def test_a_name_that_is_not_utf8_below_the_logs_is_one_line_or_passed_over(
    tiny_bundle: Bundle, tmp_path: Path, name: bytes
) -> None:
    write_log(tmp_path / "logs" / "good.parquet", [("a", "item1", START)])
    odd = os.path.join(os.fsencode(tmp_path / "logs"), name)
    os.makedirs(os.path.dirname(odd), exist_ok=True)
    shutil.copyfile(tmp_path / "logs" / "good.parquet", odd)
    if name.endswith(b".parquet"):
        with pytest.raises(InputError, match="not a readable Parquet file; found a name that is"):
            run(tmp_path / "logs", tiny_bundle, tmp_path / "out")
    result = run(tmp_path / "logs", tiny_bundle, tmp_path / "out", skip_bad_files=True)
    assert len(result.skipped_files) == name.endswith(b".parquet")
    assert set(rows(tmp_path / "out")) == {"a"}


@pytest.mark.parametrize("which", ["input", "output", "users"])
def test_a_path_that_is_not_utf8_is_one_line(
    tiny_bundle: Bundle, tmp_path: Path, which: str
) -> None:
    path = write_log(tmp_path / "log.parquet", [("a", "item1", START)])
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copyfile(path, odd)
    paths: dict[str, Any] = {"input": path, "output": tmp_path / "out", "users": None, which: odd}
    with pytest.raises(ConfigError, match="a path that is not UTF-8"):
        run(paths["input"], tiny_bundle, paths["output"], users=paths["users"])


@pytest.mark.parametrize(
    "make",
    [
        pa.large_list,
        pa.list_view,
        pa.large_list_view,
        lambda kind: pa.list_(kind, 2),
        lambda kind: pa.list_(pa.dictionary(pa.int32(), kind)),
    ],
)
def test_every_kind_of_list_and_dictionary_of_ids_is_a_sequence(
    tiny_bundle: Bundle, tmp_path: Path, make: Callable[[pa.DataType], pa.DataType]
) -> None:
    history = {"a": ["item1", "item2"], "none": None, "b": ["item3", "unknown"]}
    users = pa.array(list(history)).dictionary_encode()
    lists = pa.array(list(history.values()), pa.list_(pa.string()))
    kind = make(pa.string())
    if kind.value_type == pa.string():
        lists = pa.array(list(history.values()), kind)
    else:
        lists = pa.ListArray.from_arrays(
            lists.offsets, lists.values.dictionary_encode(), mask=lists.is_null()
        )
    assert lists.type == kind
    pq.write_table(pa.table({"user_id": users, "item_ids": lists}), tmp_path / "s.parquet")
    result = run(tmp_path / "s.parquet", tiny_bundle, tmp_path / "out")
    assert (result.n_users, result.unknown_items) == (3, 1)
    assert pq.read_schema(tmp_path / "out" / "part-00000.parquet").field("user_id").type == (
        pa.string()
    )
    known = {"a": ["item1", "item2"], "none": [], "b": ["item3"]}
    assert_rows(
        rows(tmp_path / "out"), {user: brute_force(tiny_bundle, met) for user, met in known.items()}
    )


@pytest.mark.parametrize("first", ["PAR1", "PAR1-item", "PAR10000000000"])
def test_a_text_of_ids_may_begin_like_parquet(
    make_bundle: Callable[..., Bundle], tmp_path: Path, first: str
) -> None:
    bundle = make_bundle(tmp_path / "bundle", item_ids=[first, "x", "y"])
    path = write_sequences(tmp_path / "s.parquet", {"u": ["y"]})
    (tmp_path / "deny.txt").write_text(f"{first}\nother\n")
    run(path, bundle, tmp_path / "out", deny=tmp_path / "deny.txt", top_k=3)
    assert [item for item, _ in rows(tmp_path / "out")["u"]] == ["x"]
    content = path.read_bytes()
    (tmp_path / "deny.txt").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"deny\.txt: cannot be read.*Parquet"):
        run(path, bundle, tmp_path / "damaged", deny=tmp_path / "deny.txt", top_k=3)


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_want_of_memory_makes_no_file_unreadable(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "x.parquet"
    if kind == "log":
        write_log(path, [("a", "item1", START)])
    else:
        write_sequences(path, {"a": ["item1"]})

    def scarce(*args: Any, **options: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", scarce)
    with pytest.raises(MemoryShortError):  # skipped, its users would be missing
        run(path, tiny_bundle, tmp_path / "out", skip_bad_files=True)


def test_a_loop_of_links_below_the_logs_ends(tiny_bundle: Bundle, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_log(logs / "day" / "good.parquet", [("a", "item1", START)])
    write_log(tmp_path / "elsewhere" / "linked.parquet", [("b", "item2", START)])
    (logs / "linked").symlink_to(tmp_path / "elsewhere")
    for number in range(3):
        (logs / f"loop{number}").symlink_to(logs)
        (logs / "day" / f"loop{number}").symlink_to("..")
    result = run(logs, tiny_bundle, tmp_path / "out")
    assert set(rows(tmp_path / "out")) == {"a", "b"}
    assert result.duplicates == 0
    (logs / "itself.parquet").symlink_to("itself.parquet")
    with pytest.raises(InputError, match="itself"):
        run(logs, tiny_bundle, tmp_path / "out2")


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_text_that_is_no_utf8_makes_a_file_unreadable(
    tiny_bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    folder, good = tmp_path / "in", {"good": ["item1"]}
    folder.mkdir()
    a = folder / "a.parquet"
    write_log(a, events(good)) if kind == "log" else write_sequences(a, good)
    table = pq.read_table(a)
    user = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(0, "user_id", user), folder / "b.parquet")

    with pytest.raises(InputError, match=r"b\.parquet: not a readable Parquet file.*UTF8"):
        run(folder, tiny_bundle, tmp_path / "out")
    result = run(folder, tiny_bundle, tmp_path / "out", skip_bad_files=True)
    assert result.skipped_files == (str(folder / "b.parquet"),)
    assert set(rows(tmp_path / "out")) == {"good"}


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_a_list_of_users_of_whom_none_is_there_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    path, history = tmp_path / "in.parquet", {"u": ["item1"]}
    write_log(path, events(history)) if kind == "log" else write_sequences(path, history)
    (tmp_path / "users.txt").write_text("user_id\nv\nw\n")
    with pytest.raises(InputError, match="none of the listed users is in the input; found 2"):
        run(path, tiny_bundle, tmp_path / "out", users=tmp_path / "users.txt")
    assert not (tmp_path / "out").exists()


def test_sequences_of_nobody_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    nobody = pa.table({"user_id": pa.array([None, None], pa.string()), "item_ids": [["item1"]] * 2})
    pq.write_table(nobody, tmp_path / "s.parquet")
    with pytest.raises(InputError, match="no usable row in the sequences; found 2 with null user_"):
        run(tmp_path / "s.parquet", tiny_bundle, tmp_path / "out")


def test_null_ids_in_sequences_are_counted(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "s.parquet", {"u": ["item1", None], None: ["item2"]})
    result = run(path, tiny_bundle, tmp_path / "out")
    assert result.dropped == {"null user_id": 1, "null item_id": 1}
    assert_rows(rows(tmp_path / "out"), {"u": brute_force(tiny_bundle, ["item1"])})


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


def test_an_output_folder_in_or_around_the_bundle_is_refused(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "a.parquet", [("u", "item1", START)])
    model = shutil.copytree(tiny_bundle.path, tmp_path / "models" / "m")
    (tmp_path / "alias").symlink_to(model)
    before = {*tmp_path.rglob("*")}
    for out, message in (
        (model, "lies in"),
        (model / "out", "lies in"),
        (tmp_path / "alias" / "out", "lies in"),
        (model.parent, "holds"),
    ):
        with pytest.raises(ConfigError, match=f"the output folder {message} the bundle"):
            run(log, Bundle.load(model), out)
    assert {*tmp_path.rglob("*")} == before
    assert run(log, Bundle.load(model), tmp_path / "models" / "m2").n_users == 1


def test_an_output_folder_whose_parts_would_be_read_next_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    log = write_log(logs / "dt=1" / "a.parquet", [("u", "item1", START)])
    (tmp_path / "alias").symlink_to(logs)
    monkeypatch.chdir(tmp_path)
    for source, out in (
        (logs, logs / "out"),
        ("logs", tmp_path / "alias" / "dt=1" / "out"),
        (logs.as_uri(), "logs/out"),
        ("logs/*", logs / "out"),
        ("logs/**/*.parquet", logs / "out"),
    ):
        with pytest.raises(ConfigError, match=r"lies in an input.*outside of it"):
            run(source, tiny_bundle, out)
    assert [path for path in logs.rglob("*") if path.is_file()] == [log]
    for source, out in (
        (log, logs / "out1"),
        ("logs/dt=*/*.parquet", logs / "out2"),
        ("logs/dt=1", logs / "dt=2"),
        (logs / "dt=1", logs / "dt=1" / "_out"),  # listings leave out what begins like this
    ):
        assert run(source, tiny_bundle, out).n_users == 1
        assert run(source, tiny_bundle, out, overwrite=True).n_users == 1
