"""Import: a file of interactions in another format into Parquet logs, one file per day."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.logs.imports.formats import line_parser
from pipeline.logs.imports.line_parser import LineParser
from pipeline.logs.imports.options import Columns, Format
from pipeline.logs.imports.output_folder import check_output, move_logs, temporary_folders
from pipeline.logs.imports.text_lines import first_line, line_blocks
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID
from pipeline.storage.folders import storage_errors
from pipeline.storage.scratch_db import scalar, scratch_database

# In the folder of logs; names that begin with an underscore are not logs.
BAD_LINES_FILE = "_bad_lines.csv"

_ROWS_PER_BATCH = 1_000_000
_DEFAULT_COLUMNS = Columns()

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        logs: The folder of Parquet logs, `dt=YYYY-MM-DD/part-0.parquet` (days in UTC).
        n_users: Number of distinct users.
        n_items: Number of distinct items.
        n_interactions: Number of rows in the logs.
        n_days: Number of files of the logs.
        first_event: Time of the first row, UTC.
        last_event: Time of the last row, UTC.
        user_ids: `integers` if every id is written as an integer, else `strings`.
        item_ids: Likewise.
        n_bad_lines: Number of lines left out.
        bad_lines: File of the lines left out, with number and reason; None if there are none.
    """

    logs: Path
    n_users: int
    n_items: int
    n_interactions: int
    n_days: int
    first_event: datetime
    last_event: datetime
    user_ids: str
    item_ids: str
    n_bad_lines: int
    bad_lines: Path | None

    @property
    def run_date(self) -> date:
        """The first run date that includes every event, in any time zone."""
        return self.last_event.date() + timedelta(days=1)


def _no_progress(doing: str, done: int, total: int) -> None:
    return None


def import_logs(
    path: Path,
    out: Path,
    kind: Format,
    columns: Columns = _DEFAULT_COLUMNS,
    *,
    skip_bad_lines: bool = False,
    progress: Progress = _no_progress,
) -> Imported:
    """Read a file of interactions and write them as Parquet logs.

    Rows are ordered by time and, within one time, as in the file. The folder appears complete, at
    the end, or not at all.

    Args:
        path: Text file, may be compressed.
        out: Local folder to create; it may exist if it is empty and can be replaced.
        kind: Format of the file.
        columns: Columns of the file, where the format leaves a choice.
        skip_bad_lines: Leave bad lines out and write them to a file, instead of raising an error.
        progress: Called with what is being done, how much is done, and how much there is.

    Raises:
        InputError: the file is missing, empty or unreadable, has a bad line, or no good one.
        SchemaError: the header lacks a column, or the file has another format.
        ConfigError: `out` is no local path, is not empty or cannot be replaced, or `columns`
            does not fit the format.
        StorageError: the logs cannot be written.
        BusyError: another import writes to `out`.
    """
    with storage_errors(str(out)):
        check_output(out)
    target = Path(os.path.realpath(out))  # a link to a folder stays a link
    parser = line_parser(kind, columns, *first_line(path), str(path))
    with temporary_folders(target) as (scratch, logs):
        with scratch_database(scratch) as db:
            _read(path, parser, progress, db)
            if kind == "sequences":
                _move_repeated_users(db)
            n_bad = scalar(db, "SELECT count(*) FROM bad")
            n_good = scalar(db, "SELECT count(*) FROM events")
            if not n_good or (n_bad and not skip_bad_lines):
                raise _bad_lines_error(path, n_bad, n_good, db)
            if n_bad:
                bad = "SELECT line, what || '; expected ' || expected AS reason, text FROM bad"
                db.sql(f"{bad} ORDER BY line").write_csv(str(logs / BAD_LINES_FILE), header=True)
            totals = _totals(db)
            n_days = _write(logs, totals, progress, db)
        move_logs(logs, target)
    return Imported(
        out,
        totals["n_users"],
        totals["n_items"],
        n_good,
        n_days,
        totals["first"].astimezone(UTC),
        totals["last"].astimezone(UTC),
        "integers" if totals[f"integer_{USER_ID}"] else "strings",
        "integers" if totals[f"integer_{ITEM_ID}"] else "strings",
        n_bad,
        out / BAD_LINES_FILE if n_bad else None,
    )


def _read(
    path: Path, parser: LineParser, progress: Progress, db: duckdb.DuckDBPyConnection
) -> None:
    """Read every line into one of the tables `events` and `bad`."""
    db.execute("SET TimeZone = 'UTC'")
    db.execute(
        f"""CREATE TABLE events
        ({USER_ID} VARCHAR, {ITEM_ID} VARCHAR, {TIMESTAMP} TIMESTAMPTZ, line BIGINT)"""
    )
    db.execute(
        """CREATE TABLE bad
        (line BIGINT, what VARCHAR, expected VARCHAR, found VARCHAR, text VARCHAR)"""
    )
    for block in line_blocks(path, partial(progress, "reading")):
        db.register("lines", block)
        db.execute(
            f"""CREATE OR REPLACE TABLE checked AS SELECT *, {parser.broken_rule()} AS broken_rule
            FROM ({parser.parsed}) WHERE line >= {parser.first}"""
        )
        db.execute(
            f"INSERT INTO events SELECT {parser.events} FROM checked WHERE broken_rule IS NULL"
        )
        db.execute(
            f"INSERT INTO bad SELECT {parser.bad_lines()} FROM checked "
            "WHERE broken_rule IS NOT NULL"
        )
    db.execute("DROP TABLE IF EXISTS checked")


def _move_repeated_users(db: duckdb.DuckDBPyConnection) -> None:
    """Move every line but a user's first one to `bad`: their order in time is not known."""
    db.execute(
        f"CREATE TABLE firsts AS SELECT {USER_ID}, min(line) AS line FROM events GROUP BY {USER_ID}"
    )
    db.execute(
        f"""INSERT INTO bad
        SELECT events.line, 'the user has an earlier line', 'one line per user',
               concat({USER_ID}, ', on line ', firsts.line, ' too'),
               concat({USER_ID}, ' ', string_agg({ITEM_ID}, ' ' ORDER BY {TIMESTAMP}))
        FROM events JOIN firsts USING ({USER_ID})
        WHERE events.line > firsts.line GROUP BY {USER_ID}, events.line, firsts.line"""
    )
    db.execute("DELETE FROM events WHERE line IN (SELECT line FROM bad)")


def _bad_lines_error(
    path: Path, n_bad: int, n_good: int, db: duckdb.DuckDBPyConnection
) -> InputError:
    if not n_bad:
        return InputError("no interaction", str(path), found="a header only")
    ((line, what, expected, found),) = db.execute(
        "SELECT line, what, expected, left(found, 120) FROM bad ORDER BY line LIMIT 1"
    ).fetchall()
    lines = "1 line is" if n_bad == 1 else f"{n_bad:,} lines are"
    return InputError(
        what,
        f"{path}, line {line}",
        expected,
        repr(found),
        f"{lines} bad; --skip-bad-lines keeps the others."
        if n_good
        else "No line is good: check the format and the columns.",
    )


def _totals(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    counts = [
        f"""count(DISTINCT {column}) AS n_{column.removesuffix("_id")}s,
        bool_and(CAST(TRY_CAST({column} AS BIGINT) AS VARCHAR) IS NOT DISTINCT FROM {column})
        AS integer_{column}"""
        for column in (USER_ID, ITEM_ID)
    ]
    totals = db.sql(
        f"""SELECT {", ".join(counts)}, min({TIMESTAMP}) AS first, max({TIMESTAMP}) AS last,
        count(*) AS n_events FROM events"""
    )
    return dict(totals.to_arrow_table().to_pylist()[0])


def _write(
    folder: Path, totals: dict[str, Any], progress: Progress, db: duckdb.DuckDBPyConnection
) -> int:
    """Write one file per day; returns the number of days."""
    integer = {column: totals[f"integer_{column}"] for column in (USER_ID, ITEM_ID)}
    ids = ", ".join(
        f"CAST({column} AS BIGINT) AS {column}" if is_integer else column
        for column, is_integer in integer.items()
    )
    id_fields = [
        (column, pa.int64() if is_integer else pa.string())
        for column, is_integer in integer.items()
    ]
    schema = pa.schema([*id_fields, (TIMESTAMP, TIME)])
    ordered = db.sql(f"SELECT {ids}, {TIMESTAMP} FROM events ORDER BY {TIMESTAMP}, line")
    rows = ordered.to_arrow_reader(_ROWS_PER_BATCH).cast(schema)
    days = done = 0
    for day, parts in groupby(_split_days(rows), itemgetter(0)):
        path = folder / f"dt={day}" / "part-0.parquet"
        path.parent.mkdir()
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for _, part in parts:
                writer.write_batch(part)
                done += len(part)
        days += 1
        progress("writing", done, totals["n_events"])
    return days


def _split_days(
    rows: Iterable[pa.RecordBatch],
) -> Iterator[tuple[np.datetime64, pa.RecordBatch]]:
    """Split rows ordered by time where a day or a batch ends."""
    for batch in rows:
        days = batch[TIMESTAMP].to_numpy(zero_copy_only=False).astype("datetime64[D]")
        ends = [*(np.flatnonzero(days[1:] != days[:-1]) + 1).tolist(), len(days)]
        for start, end in pairwise([0, *ends]):
            yield days[start], batch.slice(start, end - start)
