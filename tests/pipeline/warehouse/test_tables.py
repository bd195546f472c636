"""What other readers find in tables that rows were taken out of."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import write_deltalake

from pipeline.errors import ConflictError
from pipeline.warehouse.tables import dataset_of, delete, open_table

ROWS = pa.table(
    {
        "item_id": ["a", "b", None, "c"],
        "number": [1, None, 3, 4],
        "run_date": [date(2026, 6, 1)] * 2 + [date(2026, 6, 2)] * 2,
    }
)


@pytest.mark.parametrize("partitions", [[], ["run_date"]])
def test_arrow_filters_text_after_a_deletion(tmp_path: Path, partitions: list[str]) -> None:
    uri = str(tmp_path / "table")
    write_deltalake(uri, ROWS, partition_by=partitions)
    table = open_table(uri)
    assert table is not None
    delete(table, "number = 1 AND item_id = 'a'")
    rows = dataset_of(table)
    assert rows.to_table(filter=ds.field("item_id") == "c")["number"].to_pylist() == [4]
    assert rows.to_table(filter=ds.field("item_id") == "a").num_rows == 0
    # Rows of which the condition is neither true nor false stay.
    assert sorted(map(str, rows.to_table()["item_id"].to_pylist())) == ["None", "b", "c"]


def test_a_deletion_collides_with_another_writer(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    write_deltalake(uri, ROWS)
    table = open_table(uri)
    assert table is not None
    write_deltalake(uri, ROWS, mode="append")
    with pytest.raises(ConflictError):
        delete(table, "number = 1")
