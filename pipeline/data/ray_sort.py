"""Sorting on a Ray cluster: a range of user ids per worker, each of which reads the table itself.

What comes back are files of buckets, as of a prepared folder of the range's users alone. Put after
one another in the order of the ranges they are, byte for byte, those of one sort of everybody.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from socket import gethostname

import duckdb
import pyarrow as pa

from pipeline.config.engine_section import EngineSettings
from pipeline.data.event_rows import EventRows, EventSource
from pipeline.data.history_sort import HistorySort
from pipeline.data.k_core import Kept, keep_events, kept_items, kept_users
from pipeline.data.sequence_files import Totals, bucket_files
from pipeline.data.user_ranges import UserRange, user_ranges
from pipeline.engines.base import Engine, Progress, WorkerDiedError, already_made
from pipeline.engines.ray_engine import opened_ray_engine
from pipeline.errors import MemoryShortError, first_line, raised_as
from pipeline.schema import ITEM_ID, SEQUENCES, USER_ID, prepared_schema
from pipeline.storage.prepared_folder import batches_of, sequence_files
from pipeline.storage.resources import ResourceSettings
from pipeline.storage.scratch_db import scratch_database, temporary_folder
from pipeline.warehouse.tables import count_rows

_log = logging.getLogger(__name__)


class UnreachableError(Exception):
    """Why a worker cannot open the table of events, with the name of its machine."""


@dataclass(frozen=True)
class SortTask:
    """The part of a worker.

    Attributes:
        users: Whose events to sort.
        kept: What limits leave of them, and of all items; None without limits.
    """

    users: UserRange
    kept: Kept | None

    def __len__(self) -> int:
        return 1


# The content of the files of all buckets, of some users.
Contents = list[pa.Buffer]


@dataclass(frozen=True)
class RangeSorter:
    """A worker: sorts the events of a range of users; it pickles.

    Attributes:
        source: The events.
        sort: How they become histories.
        resources: What a sort may use of the worker's machine.
        cores: How many the worker has of it.
    """

    source: EventSource
    sort: HistorySort
    resources: ResourceSettings
    cores: int

    def __call__(self, task: SortTask, progress: Progress) -> Contents:
        """The files of a task's users.

        Raises:
            UnreachableError: the table cannot be opened from here.
            StorageError: the disk for temporary files is full.
            MemoryShortError: there is not enough memory.
        """
        try:
            rows = self.source.open(task.users)
        except Exception as error:
            raise UnreachableError(f"{gethostname()}: {first_line(error)}") from None
        resources = self.resources.of_one_worker(self.cores)
        with temporary_folder(resources) as folder:
            with scratch_database(folder, resources) as db:
                db.register("rows", rows.read([USER_ID, ITEM_ID]))
                keep_events("rows", task.kept, db)
                self.sort.write(rows, folder, db)
            # Mapped, so that no copy is in this process's memory; they stay when they are removed.
            return [pa.memory_map(str(path)).read_buffer() for path in sequence_files(folder)]


def sort_on_ray(
    rows: EventRows,
    sort: HistorySort,
    folder: Path,
    db: duckdb.DuckDBPyConnection,
    resources: ResourceSettings,
    settings: EngineSettings,
) -> Totals:
    """Write the histories of all events, as `HistorySort.write` does.

    Where a worker does not reach the warehouse, this process sorts everything.

    Args:
        rows: The events.
        sort: How.
        folder: Where.
        db: A database in which `filter_events` was called.
        resources: What a sort may use of a machine.
        settings: The cluster, and the resources of a worker.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, or it has no room for a worker.
        MemoryShortError: three workers were lost by one range.
        Exception: what a worker raised.
    """
    worker = RangeSorter(EventSource.of(rows), sort, resources, settings.num_cpus)
    columns = prepared_schema(rows.type_of(USER_ID), event_types=sort.event_types is not None)
    with opened_ray_engine(partial(already_made, worker), settings.on_cpus()) as engine:
        n_events = count_rows(rows.table)
        ranges = user_ranges(rows.read([USER_ID]), n_events, min(engine.count, n_events))
        engine = replace(engine, count=max(settings.min_workers, len(ranges)))
        try:
            return write_ranges(engine, sort_tasks(ranges, sort, db), columns, folder)
        except UnreachableError as error:
            message = "sorting here, as a worker on the Ray cluster cannot open the table: %s"
            _log.warning(message, error)
    shutil.rmtree(folder / SEQUENCES)
    return sort.write(rows, folder, db)


def sort_tasks(
    ranges: Iterable[UserRange], sort: HistorySort, db: duckdb.DuckDBPyConnection
) -> Iterator[SortTask]:
    """The tasks of ranges, with the ids that limits leave; see `sort_on_ray`."""
    items = kept_items(db) if sort.limited else None
    for users in ranges:
        yield SortTask(users, None if items is None else Kept(kept_users(users, db), items))


def write_ranges(
    engine: Engine[SortTask, Contents], tasks: Iterable[SortTask], columns: pa.Schema, folder: Path
) -> Totals:
    """Let an engine of `RangeSorter` sort, and write all histories into one folder.

    Args:
        engine: Where.
        tasks: Everybody, in the order of the ids.
        columns: See `prepared_schema`.
        folder: `sequences/` is made in it.
    """
    totals = Totals()
    results = engine.results(tasks, lambda done: None)
    with (
        raised_as(
            MemoryShortError,
            WorkerDiedError,
            "the events could not be sorted on the Ray cluster",
            remedy="Give a worker more of its node by engine.num_cpus, or lower resources.memory.",
        ),
        closing(results),
        bucket_files(folder, columns, totals) as files,
    ):
        for contents in results:
            for file, content in zip(files, contents, strict=True):
                for histories in batches_of(pa.ipc.open_file(content), columns.names):
                    file.add(histories)
    return totals
