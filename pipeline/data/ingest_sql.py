"""SQL of ingest: joins of the rows just read with those of the warehouse, in a scratch database.

Beside the tables of `staging`: `kept`, `dropped` and `new`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.data.staging import EVENT, SOURCE, WITHOUT_NULL, add_sources, names_there, same_in
from pipeline.logs.validation import AFTER_RUN_DATE
from pipeline.schema import EVENT_TYPE, INTERACTIONS, TIMESTAMP, VALUE
from pipeline.storage.scratch_db import scalar, streamed
from pipeline.warehouse.tables import dataset_of

if TYPE_CHECKING:
    from deltalake import DeltaTable


def find_kept(
    interactions: "DeltaTable | None", columns: pa.Schema, db: duckdb.DuckDBPyConnection
) -> list[str]:
    """Find the files whose rows in `interactions` are not what they hold now.

    Makes the view `kept`, the rows of `interactions` that stay; the tables `before`, the rows that
    it has of `files`; `stale`, the names of the files whose rows go; and `gone`, events of those
    rows that no file just read has. Events in `before` are good in `staged`, too, where they are
    after an earlier run date.

    Returns:
        The names in `stale`.
    """
    there = dataset_of(interactions) if interactions else columns.empty_table()
    db.register(INTERACTIONS, there)
    db.register("rows_before", _rows_before(there, db))
    db.execute(
        f"""CREATE TABLE before AS
        SELECT {EVENT}, {VALUE}, {SOURCE}
        FROM (SELECT * REPLACE ({WITHOUT_NULL}) FROM rows_before)"""
    )
    # A row that is where it was stays as it is, with the stamp that it was read under.
    row = (*EVENT.split(", "), VALUE, "source_file", "source_row")
    if scalar(db, "SELECT count(*) FROM before"):
        db.execute(
            f"""UPDATE staged SET reason = NULL WHERE reason = '{AFTER_RUN_DATE}'
            AND ({EVENT}) IN (SELECT ({EVENT}) FROM before)"""
        )
        db.execute(
            f"""CREATE TABLE stale AS
            SELECT DISTINCT source_file FROM before ANTI JOIN (
                FROM staged JOIN files USING (file) WHERE reason IS NULL
            ) AS now ON {same_in("now", *row)}"""
        )
    else:
        db.execute("CREATE TABLE stale (source_file VARCHAR)")
    stale = [name for (name,) in db.execute("FROM stale ORDER BY 1").fetchall()]
    but = " ANTI JOIN stale USING (source_file)" if stale else ""
    stored = f"SELECT * REPLACE ({WITHOUT_NULL}) FROM {INTERACTIONS}"
    db.execute(f"CREATE VIEW kept AS {stored}{but}")
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
    names = [] if isinstance(there, pa.Table) else names_there(there, db)
    if not names:
        return there.schema.empty_table()
    source = ds.field("source_file")
    # Constants, so that Delta's statistics spare the files that hold other logs.
    near = (source >= min(names)) & (source <= max(names))
    return there.scanner(filter=near & source.isin(names)).to_reader()


def find_new(db: duckdb.DuckDBPyConnection) -> int:
    """Make the view `new`: good rows not yet in `interactions`, once each.

    The table `dropped` has the good rows that are left out.

    Returns:
        The number of new rows.
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
        f"""CREATE VIEW new AS SELECT {EVENT}, {VALUE}, file, source_row
        FROM good ANTI JOIN dropped USING (file, source_row)"""
    )
    return int(good) - scalar(db, "SELECT count(*) FROM dropped")


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
        SELECT {EVENT}, {VALUE}, file, source_row
        FROM rows_of_them JOIN sources USING (source_file, source_stamp)
        ANTI JOIN stale USING (source_file)
        UNION ALL FROM new"""
    )
    return names


@contextmanager
def interaction_rows(
    view: str, columns: pa.Schema, db: duckdb.DuckDBPyConnection
) -> Iterator[pa.RecordBatchReader]:
    """The rows of `new` or `rewritten` as `interactions` has them, for use inside ``with``.

    The names and states of their files are dictionary-encoded, as both are long and few.

    Args:
        view: Its name.
        columns: The schema of `interactions`.
        db: The scratch database.
    """
    found = db.sql("SELECT source_file, source_stamp FROM sources ORDER BY file").to_arrow_table()
    encoded = {name: found[name].combine_chunks() for name in found.column_names}
    kind = pa.dictionary(pa.int32(), pa.string())
    fields = (each.with_type(kind) if each.name in encoded else each for each in columns)
    schema = pa.schema(list(fields))

    def encode(batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [
            pa.DictionaryArray.from_arrays(batch["file"], encoded[field.name])
            if field.name in encoded
            else batch[field.name].cast(field.type)
            for field in schema
        ]
        return pa.record_batch(arrays, schema=schema)

    query = f"SELECT * REPLACE (nullif({EVENT_TYPE}, '') AS {EVENT_TYPE}) FROM {view}"
    with streamed(db, query) as rows:
        yield pa.RecordBatchReader.from_batches(schema, map(encode, rows))


def count_duplicates(db: duckdb.DuckDBPyConnection) -> int:
    """The good rows of `files`, and of those released, that are left out.

    The rows of `stage_elsewhere`, which is for known files, were counted when these were read.
    """
    here = "SEMI JOIN (FROM sources WHERE is_read OR NOT is_known) USING (file)"
    return scalar(db, f"SELECT count(*) FROM dropped {here}")


def count_changes(n_new: int, db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """The events that are new in `interactions`, and those that go."""
    if not scalar(db, "SELECT count(*) FROM replaced"):
        return n_new, 0
    added = scalar(db, f"SELECT count(*) FROM new ANTI JOIN replaced USING ({EVENT})")
    withdrawn = scalar(db, f"SELECT count(*) FROM replaced ANTI JOIN new USING ({EVENT})")
    return added, withdrawn


def counts_of_files(db: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """The columns `n_not_kept` and `n_rows` of `log_files` for each file just read, by name.

    The former are its rows that `interactions` does not have under its name.
    """
    counts = db.execute(
        """SELECT source_file, CAST(coalesce(sum(n), 0) AS BIGINT), coalesce(any_value(n_rows), 0)
        FROM files LEFT JOIN (
            SELECT source_file, 1 AS n FROM staged JOIN sources USING (file)
            WHERE reason IS NOT NULL
            UNION ALL
            SELECT source_file, 1 FROM dropped JOIN sources USING (file)
            UNION ALL
            SELECT source_file, -1 FROM before ANTI JOIN stale USING (source_file)
        ) USING (source_file)
        LEFT JOIN (SELECT file, count(*) AS n_rows FROM staged GROUP BY file) USING (file)
        GROUP BY source_file"""
    )
    return {
        name: {"n_not_kept": n_not_kept, "n_rows": n_rows}
        for name, n_not_kept, n_rows in counts.fetchall()
    }
