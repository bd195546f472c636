"""Sequences: the ids and times that they may have, which are those of logs."""

import uuid
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import InputError, SchemaError
from tests.helpers.scoring_cases import RUN_DATE, rows, run

UUIDS = [uuid.UUID(int=number) for number in range(1, 6)]
NUMBERS = [11, 12, 13, 14, 15]
BYTES = [known.bytes for known in UUIDS]


def same_in_both(
    bundle: Bundle, folder: Path, user: pa.Array, item: pa.Array, **options: Any
) -> dict[Any, list[tuple[str, float]]]:
    """Score one log, and as sequences one user's item per row; both give the same rows."""
    times = pa.array([datetime(2026, 11, 1)] * len(user))
    log = pa.table({"user_id": user, "item_id": item, "timestamp": times})
    lists = pa.LargeListArray.from_arrays(range(len(item) + 1), item)
    pq.write_table(log, folder / "log.parquet")
    pq.write_table(pa.table({"user_id": user, "item_ids": lists}), folder / "s.parquet")
    found = []
    for name in ("log", "s"):
        run(folder / f"{name}.parquet", bundle, folder / f"out-{name}", top_k=2, **options)
        found.append(rows(folder / f"out-{name}"))
        assert pq.read_schema(folder / f"out-{name}/part-00000.parquet").field("user_id").type in (
            pa.int64(),
            pa.string(),
        )
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (pa.array(BYTES, pa.uuid()), [str(known) for known in UUIDS]),
        (pa.array(BYTES, pa.binary(16)), [known.hex for known in UUIDS]),
        (pa.array([Decimal(number) for number in NUMBERS], pa.decimal128(20, 0)), NUMBERS),
        (pa.array(NUMBERS, pa.uint64()), NUMBERS),
        (pa.array(NUMBERS, pa.float64()), NUMBERS),
        (pa.array([str(number) for number in NUMBERS], pa.string_view()), [*map(str, NUMBERS)]),
        (pa.array(NUMBERS, pa.int64()).dictionary_encode(), NUMBERS),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_sequences_may_have_the_ids_that_logs_may_have(
    make_bundle: Callable[..., Bundle], tmp_path: Path, ids: pa.Array, kept: list[Any]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", item_ids=kept)
    found = same_in_both(bundle, tmp_path, ids, ids)
    assert list(found) == kept
    assert not any(item == user for user, best in found.items() for item, _ in best)  # seen


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.float64(), pa.binary(16)])
def test_null_ids_of_any_type_are_counted(
    make_bundle: Callable[..., Bundle], tmp_path: Path, kind: pa.DataType
) -> None:
    one = b"x" * 16 if kind == pa.binary(16) else 1.0 if kind == pa.float64() else "x"
    bundle = make_bundle(tmp_path / "bundle", item_ids=[1, 2, 3] if one == 1.0 else ["x", "y", "z"])
    lists = pa.ListArray.from_arrays([0, 2, 3], pa.array([None, one, one], kind))
    table = pa.table({"user_id": pa.array([one, None], kind), "item_ids": lists})
    pq.write_table(table, tmp_path / "s.parquet")
    result = run(tmp_path / "s.parquet", bundle, tmp_path / "out", top_k=2)
    assert result.n_users == 1
    assert result.dropped == {"null user_id": 1, "null item_id": 1}


def test_lists_without_any_item_are_users_without_history(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"user_id": ["a", "b"], "item_ids": [[], []]}), tmp_path / "s.parquet")
    result = run(tmp_path / "s.parquet", tiny_bundle, tmp_path / "out")
    assert (result.n_users, result.n_fallback) == (2, 2)


@pytest.mark.parametrize("column", ["user_id", "item_ids"])
def test_a_number_that_is_not_whole_is_refused_before_anything_is_written(
    make_bundle: Callable[..., Bundle], tmp_path: Path, column: str
) -> None:
    bundle = make_bundle(tmp_path / "bundle", item_ids=NUMBERS)
    columns = {"user_id": [1.0, 2.0], "item_ids": [[11.0], [12.0]]}
    columns[column] = [1.0, 2.5] if column == "user_id" else [[11.0], [12.5]]
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    with pytest.raises(SchemaError, match=r"s\.parquet: an id of type double cannot be used"):
        run(tmp_path / "s.parquet", bundle, tmp_path / "out", top_k=2, skip_bad_files=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("column", ["user_id", "item_ids", "timestamps"])
def test_a_column_that_is_there_twice_is_said_to_be(
    tiny_bundle: Bundle, tmp_path: Path, column: str
) -> None:
    table = pa.table({"user_id": ["a"], "item_ids": [["item1"]], "timestamps": [[1]]})
    pq.write_table(table.append_column(column, table[column]), tmp_path / "s.parquet")
    with pytest.raises(SchemaError, match=rf"s\.parquet: column '{column}' is there twice"):
        run(tmp_path / "s.parquet", tiny_bundle, tmp_path / "out")


@pytest.mark.parametrize(
    "times",
    [
        pa.array([date(2026, 11, 20), date(2026, 11, 21)]),
        pa.array(["2026-11-20T23:59:59", "2026-11-21"], pa.string_view()),
        pa.array([Decimal(1795219199), Decimal(1795219200)], pa.decimal128(12, 0)),
        pa.array(["2026-11-20T23:59:59Z", "2026-11-21"]).dictionary_encode(),
    ],
    ids=lambda times: str(times.type),
)
def test_times_are_of_any_type_that_logs_may_have(
    tiny_bundle: Bundle, tmp_path: Path, times: pa.Array
) -> None:
    lists = pa.ListArray.from_arrays([0, 2, 2], times)
    items = pa.array([["item1", "item2"], None])
    table = pa.table({"user_id": ["a", None], "item_ids": items, "timestamps": lists})
    pq.write_table(table, tmp_path / "s.parquet")
    result = run(tmp_path / "s.parquet", tiny_bundle, tmp_path / "out", active_within_days=1)
    assert date(2026, 11, 20) == RUN_DATE
    assert (result.n_users, result.dropped["timestamp after the run date"]) == (1, 1)


def test_a_file_that_changes_while_it_is_read_is_one_line(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"user_id": ["a"], "item_ids": [["item1"]]}), path)
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *a, **o: [*original(*a, **o), path.unlink()][:1]
    )
    with pytest.raises(InputError, match=r"s\.parquet: not a readable Parquet file"):
        run(path, tiny_bundle, tmp_path / "out")


@pytest.mark.parametrize("name", ["allow", "deny", "users"])
@pytest.mark.parametrize(
    "ids",
    [
        pa.array([float(NUMBERS[0]), None]),
        pa.array([NUMBERS[0]], pa.uint64()),
        pa.array([Decimal(NUMBERS[0])], pa.decimal128(20, 0)),
        pa.array([NUMBERS[0]]).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type),
)
def test_files_of_ids_may_have_the_ids_that_logs_may_have(
    make_bundle: Callable[..., Bundle], tmp_path: Path, name: str, ids: pa.Array
) -> None:
    bundle = make_bundle(tmp_path / "bundle", item_ids=NUMBERS)
    pq.write_table(pa.table({"item_id": ids, "user_id": ids}), tmp_path / "ids.parquet")
    table = pa.table({"user_id": NUMBERS, "item_ids": [[NUMBERS[1]]] * 5})
    pq.write_table(table, tmp_path / "s.parquet")
    result = run(
        tmp_path / "s.parquet",
        bundle,
        tmp_path / "out",
        top_k=3,
        **{name: tmp_path / "ids.parquet"},
    )
    found = rows(tmp_path / "out")
    if name == "users":
        assert (set(found), result.absent_users) == ({NUMBERS[0]}, 0)
    elif name == "allow":
        assert {item for best in found.values() for item, _ in best} == {NUMBERS[0]}
    else:
        assert NUMBERS[0] not in {item for best in found.values() for item, _ in best}


def test_an_empty_file_of_ids_as_pandas_writes_it_denies_nothing(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"item_id": pa.nulls(0)}), tmp_path / "deny.parquet")
    pq.write_table(pa.table({"user_id": ["a"], "item_ids": [["item1"]]}), tmp_path / "s.parquet")
    result = run(
        tmp_path / "s.parquet", tiny_bundle, tmp_path / "out", deny=tmp_path / "deny.parquet"
    )
    assert (result.n_rows, result.unknown_listed) == (5, 0)
