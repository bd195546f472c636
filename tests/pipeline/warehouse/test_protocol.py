"""The tables need no more of a reader than Delta's first protocol, which every reader knows."""

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.housekeeping import TABLES, clean_table
from pipeline.warehouse.tables import append, create_table, delete, open_table, replace_where

SCHEMAS = {
    schema.INTERACTIONS: schema.interactions_schema(pa.int64(), pa.string()),
    schema.QUARANTINE: schema.QUARANTINE_SCHEMA,
    schema.LOG_FILES: schema.LOG_FILES_SCHEMA,
    schema.VOCABULARY: schema.vocabulary_schema(pa.string()),
    schema.RECOMMENDATIONS: schema.recommendations_schema(pa.int64(), pa.string()),
    schema.RELATED_ITEMS: schema.related_items_schema(pa.string()),
    schema.ITEM_EMBEDDINGS: schema.embeddings_schema(schema.ITEM_ID, pa.string()),
    schema.USER_EMBEDDINGS: schema.embeddings_schema(schema.USER_ID, pa.int64()),
    schema.RUNS: schema.RUNS_SCHEMA,
}


@pytest.mark.parametrize("name", TABLES)
def test_any_reader_of_delta_can_read_the_table(name: str, tmp_path: Path) -> None:
    warehouse, columns = Warehouse(str(tmp_path)), SCHEMAS[name]
    table = create_table(warehouse.table(name), columns)
    text = next((field.name for field in columns if field.type == pa.string()), None)
    rows = pa.table([pa.nulls(2, field.type) for field in columns], schema=columns)
    for _ in range(16):  # so that they are merged
        append(table, rows.to_reader(), {"note": 1})
    # Spark reads these since 3.3.
    encodings = {"PLAIN", "RLE", "BIT_PACKED", "RLE_DICTIONARY", "DELTA_BINARY_PACKED"}
    for file in table.file_uris():
        group = pq.read_metadata(file).row_group(0)
        parts = [group.column(number) for number in range(group.num_columns)]
        assert {encoding for part in parts for encoding in part.encodings} <= encodings
        assert {part.compression for part in parts} == {"SNAPPY"}
    if text:
        replace_where(table, text, ["a"], rows.slice(0, 0).to_reader())
        delete(table, f"{text} = 'b'")
    cleaned = clean_table(warehouse, name, timedelta(days=3), dry_run=False)
    assert cleaned is not None
    assert cleaned.compacted == 16
    table = open_table(warehouse.table(name))
    assert table is not None
    protocol = table.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert (protocol.reader_features, protocol.writer_features) == (None, None)
    assert {*table.metadata().configuration} == {
        "delta.logRetentionDuration", "delta.deletedFileRetentionDuration"
    }  # fmt: skip
    primitive = {"long", "integer", "float", "double", "string", "date", "timestamp", "boolean"}
    fields = json.loads(table.schema().to_json())["fields"]
    kinds = {each["type"] for each in fields if isinstance(each["type"], str)}
    assert kinds <= primitive  # timestamp_ntz, for instance, is a feature of later protocols
