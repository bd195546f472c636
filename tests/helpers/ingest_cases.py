"""Small logs to ingest, and the rows of the tables afterwards."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.settings import Settings
from pipeline.schema import TIME
from pipeline.warehouse.tables import open_table
from tests.helpers.stages import table_uri

TODAY = date(2026, 6, 10)
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
TABLES = ("interactions", "quarantine", "log_files")


def settings_in(folder: Path, **logs: Any) -> Settings:
    return Settings(
        warehouse=str(folder / "warehouse"),
        work_dir=folder / "work",
        logs={"path": str(folder / "logs"), **logs},
    )


def write_log(
    settings: Settings,
    name: str,
    rows: list[tuple[Any, Any, Any]],
    user: pa.DataType | None = pa.int64(),  # noqa: B008
    item: pa.DataType | None = pa.string(),  # noqa: B008
    time: pa.DataType = TIME,
) -> Path:
    """A log file; None as the type of the ids is the type that they have."""
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    columns = [pa.array(users, user), pa.array(items, item), pa.array(times, time)]
    path = Path(settings.logs.path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, ["user_id", "item_id", "timestamp"]), path)
    return path


def rows_of(settings: Settings, name: str) -> list[dict[str, Any]]:
    table = open_table(table_uri(settings, name))
    return table.to_pyarrow_dataset().to_table().to_pylist() if table else []


def events_of(settings: Settings) -> list[tuple[Any, Any, datetime]]:
    """With repeats, so that a row that is there twice shows."""
    rows = rows_of(settings, "interactions")
    return sorted((row["user_id"], row["item_id"], row["timestamp"]) for row in rows)


def versions(settings: Settings) -> dict[str, int]:
    return {name: open_table(table_uri(settings, name)).version() for name in TABLES}
