"""Interaction logs to histories: validated, sorted and grouped by DuckDB, on disk if necessary."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bundles.description import BUNDLE_INPUTS
from pipeline.errors import InputError, UnreadableFileError
from pipeline.logs.chosen_types import no_such_types
from pipeline.logs.log_files import LogFile
from pipeline.logs.log_rows import log_rows
from pipeline.logs.validation import FILTERED, keep_applied, reason_sql
from pipeline.schema import EVENT_TYPE, ITEM_ID, ITEM_INDEX, PAD, TIMESTAMP, USER_ID
from pipeline.scoring.history_source import FileHistories, OpenedHistories
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.scratch_db import scalar, temporary_database

_BATCH_ROWS = 2**20

_Result = TypeVar("_Result")
# The columns of whether an event counts as seen and whether the model sees it, where not all do.
_IS_SEEN, _IS_INPUT = "is_seen", "is_input"


@dataclass(frozen=True)
class LogHistories(FileHistories):
    """A `HistorySource` over interaction logs; users come in the order of their ids."""

    @property
    def user_column(self) -> str:
        """See `FileHistories`."""
        return self.logs.user_id

    def _open(self, base: duckdb.DuckDBPyConnection, items: pa.Table) -> OpenedHistories:
        self._from_readable(partial(self._load_rows, base))
        self._select_events(base)
        base.register("vocabulary", items.select([ITEM_INDEX, ITEM_ID]))
        users = self._encode_items(base)
        reader = base.sql(
            f"""SELECT {USER_ID}, {ITEM_INDEX}{self._masks} FROM encoded
            ORDER BY {USER_ID}, {TIMESTAMP}, place"""
        ).to_arrow_reader(_BATCH_ROWS)
        return OpenedHistories(users, _grouped(reader))

    def popularity_since(self, items: pa.Table, since: datetime) -> NDArray[np.int64]:
        """See `HistorySource`; an exact repeat of an event counts once."""
        counts = np.zeros(len(items) + 1, np.int64)
        with temporary_database(self.resources) as base:
            base.register("vocabulary", items.select([ITEM_INDEX, ITEM_ID]))
            found = self._from_readable(partial(self._count_since, base, since))
        counts[found[ITEM_INDEX].to_numpy()] = found["n"].to_numpy()
        return counts[PAD + 1 :]

    def _count_since(
        self, base: duckdb.DuckDBPyConnection, since: datetime, files: Sequence[LogFile]
    ) -> pa.Table:
        reason = reason_sql(self.user_filter.end, self.logs.keep)
        with keep_applied(self.logs, base), log_rows(files, self.logs, self.types) as rows:
            base.register("rows", rows)
            return base.sql(f"""SELECT {ITEM_INDEX}, count(*) AS n
                FROM (
                    SELECT DISTINCT {self._event} FROM rows
                    WHERE {reason} IS NULL AND {TIMESTAMP} >= TIMESTAMPTZ '{since}'
                ) JOIN vocabulary USING ({ITEM_ID})
                GROUP BY ALL""").to_arrow_table()

    def _from_readable(self, use: Callable[[Sequence[LogFile]], _Result]) -> _Result:
        """What is made of the files: of the readable ones where others are to be left out."""
        files = self.files
        while True:
            try:
                return use(files)
            except UnreadableFileError as error:
                if not self.skip_bad_files:
                    raise
                files = tuple(file for file in files if file.path != error.where)
                self.dropped.skipped_files.add(error.where)

    def _load_rows(self, base: duckdb.DuckDBPyConnection, files: Sequence[LogFile]) -> None:
        """Make the table `checked_rows`: the rows of the users to score, each with its fault."""
        only = ""
        if self.user_filter.users is not None:
            base.register("listed_users", pa.table({USER_ID: self.user_filter.users}))
            only = f"WHERE {USER_ID} IN (FROM listed_users)"
        reason = reason_sql(self.user_filter.end, self.logs.keep)
        with keep_applied(self.logs, base), log_rows(files, self.logs, self.types) as rows:
            base.register("rows", rows)
            # One pass over the files. `place` is (file, row) in one integer: the order of events
            # of equal time.
            base.execute(f"""CREATE TABLE checked_rows AS
                SELECT {self._event}, (file::BIGINT << 40) | row AS place, {reason} AS reason
                FROM rows {only}""")
        base.unregister("rows")

    def _select_events(self, base: duckdb.DuckDBPyConnection) -> None:
        """Make the table `events`, the good rows without repeats, and count the others."""
        counts = base.execute("SELECT reason, count(*) FROM checked_rows GROUP BY reason")
        by_reason = dict(counts.fetchall())
        good = by_reason.pop(None, 0)
        self.dropped.filtered = filtered = by_reason.pop(FILTERED, 0)
        self.dropped.by_reason.update(by_reason)
        masks = self._seen_sql(base) + self._input_sql(base)
        base.execute(f"""CREATE TABLE events AS
            SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP}, min(place) AS place{masks}
            FROM checked_rows WHERE reason IS NULL GROUP BY {self._event}""")
        found = self._types_found(base)
        base.execute("DROP TABLE checked_rows")
        self.dropped.duplicates = good - scalar(base, "SELECT count(*) FROM events")
        if self.user_filter.users is not None:
            self.dropped.absent_users = scalar(
                base, f"SELECT count(*) FROM listed_users ANTI JOIN events USING ({USER_ID})"
            )
            self.user_filter.check_present(self.dropped.absent_users, self.where)
        elif not good:
            raise InputError(
                "no usable row in the logs",
                self.where,
                found=", ".join(
                    [f"{count} with {reason}" for reason, count in by_reason.items()]
                    + ([f"{filtered} that logs.keep leaves out"] if filtered else [])
                )
                or "no rows at all",
            )
        else:
            seen = self.seen.event_types if self.seen else ()
            for wanted, needed_by in ((seen, "score.exclude_seen"), (self.inputs, BUNDLE_INPUTS)):
                if wanted and not found.intersection(wanted):
                    raise no_such_types(wanted, sorted(found), needed_by, self.where)

    def _seen_sql(self, base: duckdb.DuckDBPyConnection) -> str:
        """The column `is_seen` of a group of equal events in a query, or nothing if all count."""
        if self.seen is None:
            return ""
        conditions = []
        if self.seen.event_types:
            conditions.append(_are_of(base, "seen_types", self.seen.event_types))
        if self.seen.since is not None:
            conditions.append(f"{TIMESTAMP} >= TIMESTAMPTZ '{self.seen.since}'")
        return f", {' AND '.join(conditions) or 'true'} AS {_IS_SEEN}"

    def _input_sql(self, base: duckdb.DuckDBPyConnection) -> str:
        """The column `is_input` likewise, or nothing if the model sees all events."""
        if not self.inputs:
            return ""
        return f", {_are_of(base, 'input_types', self.inputs)} AS {_IS_INPUT}"

    def _types_found(self, base: duckdb.DuckDBPyConnection) -> set[str]:
        """The types of the good rows, if types matter; notes which of `seen` are absent."""
        seen = self.seen.event_types if self.seen else ()
        if not seen and not self.inputs:
            return set()
        rows = base.execute(
            f"SELECT DISTINCT {EVENT_TYPE} FROM checked_rows"
            f" WHERE reason IS NULL AND {EVENT_TYPE} IS NOT NULL"
        ).fetchall()
        found = {kind for (kind,) in rows}
        self.dropped.absent_types.update(set(seen) - found)
        return found

    @property
    def _masks(self) -> str:
        """More columns of a query: whether events count as seen and whether the model sees them."""
        return (f", {_IS_SEEN}" if self.seen else "") + (f", {_IS_INPUT}" if self.inputs else "")

    @property
    def _event(self) -> str:
        """What events are told apart by."""
        kind = f", {EVENT_TYPE}" if self.logs.event_type else ""
        return f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}{kind}"

    def _encode_items(self, base: duckdb.DuckDBPyConnection) -> int:
        """Make the view `encoded`, active users' events with item indices; count the users."""
        active = ""
        if self.user_filter.active_since is not None:
            active = f"""SEMI JOIN (
                SELECT {USER_ID} FROM events GROUP BY {USER_ID}
                HAVING max({TIMESTAMP}) >= TIMESTAMPTZ '{self.user_filter.active_since}'
            ) USING ({USER_ID})"""
        base.execute(f"""CREATE VIEW encoded AS
            SELECT {USER_ID}, coalesce({ITEM_INDEX}, {PAD})::BIGINT AS {ITEM_INDEX}, {TIMESTAMP},
                   place{self._masks}
            FROM events LEFT JOIN vocabulary USING ({ITEM_ID}) {active}""")
        unknown = f"SELECT count(*) FROM encoded WHERE {ITEM_INDEX} = {PAD}"
        self.dropped.unknown_items = scalar(base, unknown)
        return scalar(base, f"SELECT count(DISTINCT {USER_ID}) FROM encoded")


def _are_of(base: duckdb.DuckDBPyConnection, name: str, types: Sequence[str]) -> str:
    """The condition that an event is of some types, which become a table of this name."""
    base.register(name, pa.table({EVENT_TYPE: types}))
    return f"coalesce({EVENT_TYPE} IN (FROM {name}), false)"


def _grouped(reader: pa.RecordBatchReader) -> Iterator[UserHistories]:
    """Group rows in the order of users into histories; a user may span several batches."""
    rest = reader.schema.empty_table()
    for batch in reader:
        rows = pa.concat_tables([rest, pa.table(batch)])
        user_id, offsets = _runs(rows)
        whole = len(user_id) - 1  # the last user may continue in the next batch
        if whole > 0:
            yield _histories(user_id[:whole], rows.slice(0, offsets[whole]), offsets[: whole + 1])
            rows = rows.slice(offsets[whole])
        rest = rows
    if rest.num_rows:
        user_id, offsets = _runs(rest)
        yield _histories(user_id, rest, offsets)


def _histories(user_id: pa.Array, rows: pa.Table, offsets: NDArray[np.int64]) -> UserHistories:
    """The histories of some users, whose rows begin at the offsets."""
    names = rows.column_names
    masks = (rows[name].to_numpy() if name in names else None for name in (_IS_SEEN, _IS_INPUT))
    return UserHistories(user_id, rows[ITEM_INDEX].to_numpy(), offsets, *masks).without_pad()


def _runs(rows: pa.Table) -> tuple[pa.Array, NDArray[np.int64]]:
    """The users in order, and the positions where the rows of each begin, and the end."""
    runs = pc.run_end_encode(rows[USER_ID].combine_chunks(), run_end_type=pa.int64())
    return runs.values, np.concatenate([[0], runs.run_ends.to_numpy()])
