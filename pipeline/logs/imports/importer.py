"""Import: other people's interactions into Parquet logs, one file a day."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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

from pipeline.errors import ConfigError, InputError, StorageError, one_line
from pipeline.logs.imports.formats import Reading, reading
from pipeline.logs.imports.options import Columns, Format
from pipeline.logs.imports.text_lines import first_line, line_blocks
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID
from pipeline.storage.folders import is_uri, storage_errors
from pipeline.storage.locks import exclusive_lock
from pipeline.storage.scratch_db import scalar, scratch_database

# Beside the logs; what begins with an underscore is no log.
BAD_LINES_FILE = "_bad_lines.csv"

_ROWS_A_BATCH = 1_000_000
_USUAL = Columns()

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    Attributes:
        logs: The folder of Parquet logs, `dt=YYYY-MM-DD/part-0.parquet` (days in UTC).
        n_users: Distinct users.
        n_items: Distinct items.
        n_interactions: Rows of the logs.
        n_days: Files of the logs.
        first_event: Time of the first row, UTC.
        last_event: Time of the last.
        user_ids: `integers`, or `strings` where any id is not one as it is written.
        item_ids: Likewise.
        n_bad_lines: Lines left out.
        bad_lines: The file of them, with number and reason; None if there are none.
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
        """The first run date that has every event, in any time zone."""
        return self.last_event.date() + timedelta(days=1)


def _silent(doing: str, done: int, total: int) -> None:
    return None


def import_logs(
    path: Path,
    out: Path,
    kind: Format,
    columns: Columns = _USUAL,
    *,
    skip_bad_lines: bool = False,
    progress: Progress = _silent,
) -> Imported:
    """Read a file of interactions and write them as Parquet logs.

    Rows are ordered by time and, within one time, as in the file. The folder appears whole, at
    the end, or not at all.

    Args:
        path: A text file, perhaps compressed.
        out: Local folder to make; it may be there if it is empty and can be replaced.
        kind: The file's format.
        columns: What has to be said of its columns.
        skip_bad_lines: Leave bad lines out and write them aside, instead of refusing the file.
        progress: Called with what is being done, how much is done, and how much there is.

    Raises:
        InputError: the file is missing, empty or unreadable, has a bad line, or no good one.
        SchemaError: its header lacks a column, or it is of another format.
        ConfigError: `out` is no local path, holds something or cannot be replaced, or `columns`
            does not fit the format.
        StorageError: the logs cannot be written.
        BusyError: another import is at work on `out`.
    """
    with storage_errors(str(out)):
        _refuse(out)
    target = Path(os.path.realpath(out))  # a link stays one
    plan = reading(kind, columns, *first_line(path), str(path))
    with _unfinished(target) as (scratch, logs):
        with scratch_database(scratch) as db:
            _read(path, plan, progress, db)
            if kind == "sequences":
                _part_second_lines(db)
            n_bad = scalar(db, "SELECT count(*) FROM bad")
            n_good = scalar(db, "SELECT count(*) FROM events")
            if not n_good or (n_bad and not skip_bad_lines):
                raise _refusal(path, n_bad, n_good, db)
            if n_bad:
                bad = "SELECT line, what || '; expected ' || expected AS reason, text FROM bad"
                db.sql(f"{bad} ORDER BY line").write_csv(str(logs / BAD_LINES_FILE), header=True)
            found = _totals(db)
            n_days = _write(logs, found, progress, db)
        os.sync()
        if target.exists():
            target.rmdir()
        logs.rename(target)
    return Imported(
        out,
        found["n_users"],
        found["n_items"],
        n_good,
        n_days,
        found["first"].astimezone(UTC),
        found["last"].astimezone(UTC),
        "integers" if found[f"integer_{USER_ID}"] else "strings",
        "integers" if found[f"integer_{ITEM_ID}"] else "strings",
        n_bad,
        out / BAD_LINES_FILE if n_bad else None,
    )


def _refuse(out: Path) -> None:
    """Refuse an output that the logs cannot become."""
    if is_uri(str(out)):
        raise ConfigError(
            "the logs are written to a local folder only",
            str(out),
            expected="a path",
            remedy="Name a folder with --out, and copy it to the store afterwards.",
        )
    if not out.exists():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise ConfigError(
            "the output is there already",
            str(out),
            expected="a new or empty folder",
            remedy="Name another with --out, or take this one away.",
        )
    if out.samefile(os.curdir):  # whoever stands in it would be left in a folder that is gone
        raise _irreplaceable(out, "the current folder")


def _irreplaceable(out: Path, found: str) -> ConfigError:
    return ConfigError(
        "the output cannot be replaced by the folder of logs",
        str(out),
        expected="a new folder, or an empty one that is neither a mount point nor the current one",
        found=found,
        remedy="Name a new folder in it with --out.",
    )


@contextmanager
def _unfinished(out: Path) -> Iterator[tuple[Path, Path]]:
    """Folders for scratch and logs, hidden beside `out`; those a kill left are made anew."""
    folder = out.with_name(f".{out.name}.importing")
    parts = folder / "scratch", folder / "logs"
    try:
        with exclusive_lock(folder / ".lock", "another import is at work on this", out):
            try:
                for part in parts:
                    shutil.rmtree(part, ignore_errors=True)
                    part.mkdir()
                if out.exists():
                    _try_to_move(out, folder / "moved")
                yield parts
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            "cannot be written",
            str(getattr(error, "filename", None) or out),
            found=getattr(error, "strerror", None) or str(error).splitlines()[0],
            remedy="Make room or see to the permissions.",
        ) from error


def _try_to_move(out: Path, elsewhere: Path) -> None:
    """There and back: only the system knows all mount points, and it tells after the work."""
    try:
        out.rename(elsewhere).rename(out)
    except OSError as error:
        raise _irreplaceable(out, one_line(error)) from None


def _read(path: Path, plan: Reading, progress: Progress, db: duckdb.DuckDBPyConnection) -> None:
    """Every line either into `events` or into `bad`."""
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
            f"""CREATE OR REPLACE TABLE judged AS SELECT *, {plan.fault()} AS fault
            FROM ({plan.parsed}) WHERE line >= {plan.first}"""
        )
        db.execute(f"INSERT INTO events SELECT {plan.events} FROM judged WHERE fault IS NULL")
        db.execute(f"INSERT INTO bad SELECT {plan.told()} FROM judged WHERE fault IS NOT NULL")
    db.execute("DROP TABLE IF EXISTS judged")


def _part_second_lines(db: duckdb.DuckDBPyConnection) -> None:
    """Lines of users who have an earlier one into `bad`: which came first is not known."""
    db.execute(
        f"CREATE TABLE firsts AS SELECT {USER_ID}, min(line) AS line FROM events GROUP BY {USER_ID}"
    )
    db.execute(
        f"""INSERT INTO bad
        SELECT events.line, 'the user has an earlier line', 'one line a user',
               concat({USER_ID}, ', on line ', firsts.line, ' too'),
               concat({USER_ID}, ' ', string_agg({ITEM_ID}, ' ' ORDER BY {TIMESTAMP}))
        FROM events JOIN firsts USING ({USER_ID})
        WHERE events.line > firsts.line GROUP BY {USER_ID}, events.line, firsts.line"""
    )
    db.execute("DELETE FROM events WHERE line IN (SELECT line FROM bad)")


def _refusal(path: Path, n_bad: int, n_good: int, db: duckdb.DuckDBPyConnection) -> InputError:
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
    folder: Path, found: dict[str, Any], progress: Progress, db: duckdb.DuckDBPyConnection
) -> int:
    """One file a day; returns the number of days."""
    integer = {column: found[f"integer_{column}"] for column in (USER_ID, ITEM_ID)}
    ids = ", ".join(
        f"CAST({column} AS BIGINT) AS {column}" if whole else column
        for column, whole in integer.items()
    )
    kinds = [(column, pa.int64() if whole else pa.string()) for column, whole in integer.items()]
    columns = pa.schema([*kinds, (TIMESTAMP, TIME)])
    ordered = db.sql(f"SELECT {ids}, {TIMESTAMP} FROM events ORDER BY {TIMESTAMP}, line")
    rows = ordered.to_arrow_reader(_ROWS_A_BATCH).cast(columns)
    days = done = 0
    for day, parts in groupby(_by_day(rows), itemgetter(0)):
        path = folder / f"dt={day}" / "part-0.parquet"
        path.parent.mkdir()
        with pq.ParquetWriter(path, columns, compression="zstd") as writer:
            for _, part in parts:
                writer.write_batch(part)
                done += len(part)
        days += 1
        progress("writing", done, found["n_events"])
    return days


def _by_day(
    rows: Iterable[pa.RecordBatch],
) -> Iterator[tuple[np.datetime64, pa.RecordBatch]]:
    """Rows ordered by time, cut where a day or a batch ends."""
    for batch in rows:
        days = batch[TIMESTAMP].to_numpy(zero_copy_only=False).astype("datetime64[D]")
        ends = [*(np.flatnonzero(days[1:] != days[:-1]) + 1).tolist(), len(days)]
        for start, end in pairwise([0, *ends]):
            yield days[start], batch.slice(start, end - start)
