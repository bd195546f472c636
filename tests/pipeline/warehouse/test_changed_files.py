"""The files by which the rows of a Delta table differ between two versions."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from pipeline.warehouse.changed_files import changed_files


def rows(*values: int) -> pa.Table:
    return pa.table({"value": pa.array(values, pa.int64()), "é é": [1] * len(values)})


def difference(uri: str, since: int, until: int) -> Counter[int] | None:
    changes = changed_files(DeltaTable(uri, until), since)
    if changes is None:
        return None
    counts = Counter(changes.added.to_table()["value"].to_pylist())
    counts.subtract(changes.removed.to_table()["value"].to_pylist())
    return only_changed(counts)


def only_changed(counts: Counter[int]) -> Counter[int]:
    return Counter({value: count for value, count in counts.items() if count})


def test_the_difference_of_any_two_versions(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    write_deltalake(uri, rows(1, 2), partition_by=["é é"])
    write_deltalake(uri, rows(3), mode="append")
    write_deltalake(uri, rows(4, 4), mode="append")
    DeltaTable(uri).optimize.compact()
    DeltaTable(uri).delete("value = 4")
    write_deltalake(uri, rows(4, 5), mode="append")
    write_deltalake(uri, rows(9), mode="overwrite", predicate="value > 3")
    DeltaTable(uri).restore(2)
    newest = DeltaTable(uri).version()
    assert newest == 7
    contents = [
        Counter(DeltaTable(uri, version).to_pyarrow_table()["value"].to_pylist())
        for version in range(newest + 1)
    ]
    for since in range(newest + 1):
        for until in range(since, newest + 1):
            expected = Counter(contents[until])
            expected.subtract(contents[since])
            found = difference(uri, since, until)
            # A file that was merged away and came back counts twice, which is not known for sure.
            is_known = (since, until) not in {(0, newest), (1, newest)}
            assert found == (only_changed(expected) if is_known else None)


def test_a_log_without_an_earlier_version_does_not_say(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    for value in range(4):
        write_deltalake(uri, rows(value), mode="append")
    assert changed_files(DeltaTable(uri), 1) is not None
    DeltaTable(uri).create_checkpoint()
    for version in range(3):
        (tmp_path / f"table/_delta_log/{version:020}.json").unlink()
    assert changed_files(DeltaTable(uri), 1) is None
    assert changed_files(DeltaTable(uri), 3) is not None
    for file in (tmp_path / "table").glob("*.parquet"):
        file.unlink()
    assert changed_files(DeltaTable(uri), 2) is None
