"""SQL of ingest: joins of the rows just read with those of the warehouse, in a scratch database.

Its tables: `sources`, each file in one state; `staged`, the rows read of those in `files`, with the
number of their source; then `kept`, `dropped` and `new`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.sections import LogSettings
from pipeline.data.source_files import SourceFile
from pipeline.logs.log_rows import log_rows
from pipeline.logs.validation import AFTER_RUN_DATE, EARLIEST, IdTypes, reason_sql
from pipeline.progress import work_progress
from pipeline.schema import INTERACTIONS, ITEM_ID, TIMESTAMP, USER_ID
from pipeline.storage.scratch_db import scalar
from pipeline.warehouse.tables import dataset_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

EVENT = f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}"
SOURCE = "source_file, source_row, source_stamp"


def stage(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
    progress: Callable[[int, int], None],
) -> int:
    """Read the files into the table `staged`, each row with the reason why it is bad, or NULL.

    Args:
        files: To read.
        types: Their id types.
        logs: Their columns.
        end: Of the run date.
        db: The scratch database.
        progress: As of `log_rows`.

    Returns:
        The number of rows.
    """
    db.register("listed", _table_of(files))
    db.execute("CREATE TABLE sources AS SELECT *, true AS is_read FROM listed")
    db.execute("CREATE VIEW files AS FROM sources WHERE is_read")
    _read(files, types, logs, end, "CREATE TABLE staged AS {}", db, progress)
    return scalar(db, "SELECT count(*) FROM staged")


def stage_elsewhere(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
) -> None:
    """Add to `staged` the good rows of other files, as of `stage`, that hold an event of `gone`."""
    first = scalar(db, "SELECT count(*) FROM sources")
    db.register("listed", _table_of(files, first))
    db.execute("INSERT INTO sources SELECT *, false AS is_read FROM listed")
    query = f"INSERT INTO staged FROM ({{}}) SEMI JOIN gone USING ({EVENT}) WHERE reason IS NULL"
    with work_progress("reading logs") if files else nullcontext(lambda *_: None) as progress:
        _read(files, types, logs, end, query, db, progress, first)


def _read(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    query: str,
    db: duckdb.DuckDBPyConnection,
    progress: Callable[[int, int], None],
    first: int = 0,
) -> None:
    read = [source.file for source in files]
    with log_rows(read, logs, types, (EARLIEST, end), progress) as rows:
        db.register("rows", rows)
        db.execute(
            query.format(
                f"""SELECT {EVENT}, CAST(file + {first} AS INTEGER) AS file, "row" AS source_row,
                       raw_timestamp, {reason_sql(end)} AS reason
                FROM rows"""
            )
        )


def _table_of(files: Sequence[SourceFile], first: int = 0) -> pa.Table:
    return pa.table(
        {
            "file": pa.array(range(first, first + len(files)), pa.int32()),
            "source_file": pa.array([source.name for source in files], pa.string()),
            "source_stamp": pa.array([source.stamp for source in files], pa.string()),
            "is_known": pa.array([source.is_known for source in files], pa.bool_()),
        }
    )


def add_sources(query: str, db: duckdb.DuckDBPyConnection) -> None:
    """Number further files, each in one state, whose rows are not read but found in a table.

    Args:
        query: Its columns `source_file` and `source_stamp` name them; some may be known.
        db: The scratch database.
    """
    db.execute(
        f"""INSERT INTO sources
        SELECT (SELECT count(*) FROM sources) + row_number() OVER () - 1, *, false, false
        FROM (
            SELECT DISTINCT source_file, source_stamp FROM ({query})
            ANTI JOIN sources USING (source_file, source_stamp)
        )"""
    )


def find_kept(
    interactions: "DeltaTable | None", columns: pa.Schema, db: duckdb.DuckDBPyConnection
) -> list[str]:
    """Find the files whose rows in `interactions` are not what they hold now.

    Makes the view `kept`, the rows of `interactions` that stay; the tables `before`, the rows that
    it has of `files`; `stale`, the names of the files whose rows go; and `gone`, events of those
    rows that no file just read has.

    Returns:
        The names in `stale`.
    """
    there = dataset_of(interactions) if interactions else columns.empty_table()
    db.register(INTERACTIONS, there)
    db.register("rows_before", _rows_before(there, db))
    db.execute(f"CREATE TABLE before AS SELECT {EVENT}, {SOURCE} FROM rows_before")
    db.execute(
        """CREATE TABLE moved AS SELECT before.* FROM before JOIN files USING (source_file)
        WHERE before.source_stamp <> files.source_stamp"""
    )
    # A row that is where it was stays as it is, with the stamp that it was read under.
    if scalar(db, "SELECT count(*) FROM moved"):
        db.execute(
            f"""CREATE TABLE stale AS
            SELECT DISTINCT source_file FROM moved ANTI JOIN (
                FROM staged JOIN files USING (file)
                WHERE reason IS NULL OR reason = '{AFTER_RUN_DATE}'
            ) USING ({EVENT}, source_file, source_row)"""
        )
    else:
        db.execute("CREATE TABLE stale (source_file VARCHAR)")
    stale = [name for (name,) in db.execute("FROM stale ORDER BY 1").fetchall()]
    but = " ANTI JOIN stale USING (source_file)" if stale else ""
    db.execute(f"CREATE VIEW kept AS FROM {INTERACTIONS}{but}")
    db.execute("CREATE TABLE replaced AS FROM before SEMI JOIN stale USING (source_file)")
    if stale:
        db.execute(
            f"""CREATE TABLE gone AS SELECT {EVENT} FROM replaced
            ANTI JOIN (FROM staged WHERE reason IS NULL) USING ({EVENT})"""
        )
    else:
        db.execute(f"CREATE TABLE gone AS SELECT {EVENT} FROM replaced")
    return stale


def _rows_before(
    there: ds.Dataset | pa.Table, db: duckdb.DuckDBPyConnection
) -> pa.Table | pa.RecordBatchReader:
    """The rows of `files` that are there."""
    first, last = db.execute("SELECT min(source_file), max(source_file) FROM files").fetchall()[0]
    if first is None or isinstance(there, pa.Table):
        return there.schema.empty_table()
    source = ds.field("source_file")
    # Constants, so that Delta's statistics spare the files that hold other logs.
    near = (source >= first) & (source <= last)
    db.register("near", there.scanner(["source_file"], filter=near).to_reader())
    found = db.execute("SELECT DISTINCT source_file FROM near SEMI JOIN files USING (source_file)")
    names = [name for (name,) in found.fetchall()]
    if not names:
        return there.schema.empty_table()
    return there.scanner(filter=near & source.isin(names)).to_reader()


def find_new(db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Make the view `new`: good rows not yet in `interactions`, once each.

    The table `dropped` has the good rows that are left out.

    Returns:
        The number of good rows, and of new ones.
    """
    db.execute("CREATE VIEW good AS FROM staged WHERE reason IS NULL")
    db.execute("CREATE TABLE dropped (file INTEGER, source_row BIGINT)")
    # Constants, so that Delta's statistics spare the files of other days.
    first, last, good = db.execute(
        f"""SELECT CAST(min({TIMESTAMP}) AS VARCHAR), CAST(max({TIMESTAMP}) AS VARCHAR), count(*)
        FROM good"""
    ).fetchall()[0]
    near = f"FROM kept WHERE {TIMESTAMP} BETWEEN TIMESTAMPTZ '{first}' AND TIMESTAMPTZ '{last}'"
    if good and scalar(db, f"SELECT count(*) FROM (SELECT {TIMESTAMP} {near} LIMIT 1)"):
        db.execute(
            f"""INSERT INTO dropped SELECT file, source_row
            FROM good SEMI JOIN (SELECT {EVENT} {near}) USING ({EVENT})"""
        )
    _drop_repeats(db)
    db.execute(
        f"""CREATE VIEW new AS SELECT {EVENT}, file, source_row
        FROM good ANTI JOIN dropped USING (file, source_row)"""
    )
    return good, good - scalar(db, "SELECT count(*) FROM dropped")


def _drop_repeats(db: duckdb.DuckDBPyConnection) -> None:
    """Drop all but the first of rows with the same event.

    Only the rows whose hash another row has are compared: to sort all hashes costs a tenth of a
    window over all rows.
    """
    hashes = db.execute(f"SELECT hash({EVENT}) AS hash FROM good").fetchnumpy()["hash"]
    hashes.sort()
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    if not len(repeated):
        return
    db.register("repeated", pa.table({"hash": repeated}))
    db.execute(
        f"""INSERT INTO dropped SELECT file, source_row FROM (
            SELECT file, source_row FROM good JOIN sources USING (file)
            WHERE hash({EVENT}) IN (SELECT hash FROM repeated)
            QUALIFY row_number() OVER (PARTITION BY {EVENT} ORDER BY source_file, source_row) > 1
        ) ANTI JOIN dropped USING (file, source_row)"""
    )


def find_rewritten(interactions: "DeltaTable", db: duckdb.DuckDBPyConnection) -> list[str]:
    """Make the view `rewritten`: all rows to be of the files that have a row in `stale` or `new`.

    Returns:
        The names of these files.
    """
    found = db.execute(
        """SELECT source_file FROM stale
        UNION SELECT source_file FROM (SELECT DISTINCT file FROM new) JOIN sources USING (file)
        ORDER BY 1"""
    )
    names = [name for (name,) in found.fetchall()]
    rows, of_them = (
        dataset_of(interactions),
        ds.field("source_file").isin(pa.array(names, pa.string())),
    )
    states = ["source_file", "source_stamp"]
    db.register("states_of_them", rows.scanner(states, filter=of_them).to_reader())
    add_sources("FROM states_of_them ANTI JOIN stale USING (source_file)", db)
    db.register("rows_of_them", rows.scanner(filter=of_them).to_reader())
    db.execute(
        f"""CREATE VIEW rewritten AS
        SELECT {EVENT}, file, source_row
        FROM rows_of_them JOIN sources USING (source_file, source_stamp)
        ANTI JOIN stale USING (source_file)
        UNION ALL FROM new"""
    )
    return names


def interaction_rows(
    view: str, columns: pa.Schema, db: duckdb.DuckDBPyConnection
) -> pa.RecordBatchReader:
    """The rows of `new` or `rewritten` as `interactions` has them.

    The names and states of their files are dictionary-encoded, as both are long and few.

    Args:
        view: Its name.
        columns: The schema of `interactions`.
        db: The scratch database.
    """
    found = db.sql("SELECT source_file, source_stamp FROM sources ORDER BY file").to_arrow_table()
    encoded = {name: found[name].combine_chunks() for name in found.column_names}
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [field.with_type(kind) if field.name in encoded else field for field in columns]
    )
    rows = db.sql(f"FROM {view}").to_arrow_reader()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            arrays = [
                pa.DictionaryArray.from_arrays(batch["file"], encoded[field.name])
                if field.name in encoded
                else batch[field.name].cast(field.type)
                for field in schema
            ]
            yield pa.record_batch(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def count_changes(n_new: int, db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """The events that are new in `interactions`, and those that go."""
    if not scalar(db, "SELECT count(*) FROM replaced"):
        return n_new, 0
    added = scalar(db, f"SELECT count(*) FROM new ANTI JOIN replaced USING ({EVENT})")
    withdrawn = scalar(db, f"SELECT count(*) FROM replaced ANTI JOIN new USING ({EVENT})")
    return added, withdrawn


def not_kept(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """For each file just read how many of its rows `interactions` does not have under its name."""
    counts = db.execute(
        """SELECT source_file, CAST(coalesce(sum(n), 0) AS BIGINT) FROM files LEFT JOIN (
            SELECT source_file, 1 AS n FROM staged JOIN sources USING (file)
            WHERE reason IS NOT NULL
            UNION ALL
            SELECT source_file, 1 FROM dropped JOIN sources USING (file)
            UNION ALL
            SELECT source_file, -1 FROM before ANTI JOIN stale USING (source_file)
        ) USING (source_file) GROUP BY source_file"""
    )
    return dict(counts.fetchall())
