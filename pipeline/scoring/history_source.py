"""Where the histories of a scoring run come from: the interface, and its form for input files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.sections import LogSettings
from pipeline.config.seen_rule import SeenEvents
from pipeline.errors import UnreadableFileError
from pipeline.logs.conversion import plain_ids
from pipeline.logs.log_content import read_batches, readable
from pipeline.logs.log_files import LogFile
from pipeline.logs.validation import IdTypes
from pipeline.scoring.user_histories import DroppedRows, UserFilter, UserHistories
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings
from pipeline.storage.scratch_db import scratch_database

_BATCH_ROWS = 2**18


class OpenedHistories(NamedTuple):
    """Histories that can be read once, in the same order in every run over the same input."""

    n_users: int | None  # None where it is not known before all histories were read
    histories: Iterator[UserHistories]


class HistorySource(Protocol):
    """The histories of a scoring run, for `score_histories`."""

    @property
    def where(self) -> str:
        """The input's path or paths, for messages."""

    @property
    def types(self) -> IdTypes:
        """The Arrow types of the user and item ids."""

    @property
    def dropped(self) -> DroppedRows:
        """What was left out so far."""

    def with_last_seen(self, items: pa.Table) -> pa.Table:
        """A bundle's items with `last_seen` by all events that the source knows of."""

    def popularity_since(self, items: pa.Table, since: datetime) -> NDArray[np.int64]:
        """(V-1,) the events with each of a bundle's items from an instant to the run date's end.

        Those of all users of the input count, also of users who are not to be scored.

        Raises:
            InputError: as for `open`.
            StorageError: as for `open`.
        """

    def user_ids(self) -> Iterator[pa.Array]:
        """The ids of the users of the input, some at a time, perhaps repeated or null."""

    def open(self, items: pa.Table, scratch: Path) -> AbstractContextManager[OpenedHistories]:
        """Begin to read; the histories are read inside the ``with`` block.

        Args:
            items: The bundle's items, V-1 rows in index order from 1, for encoding item ids. Their
                ids are of the kind of `types`.
            scratch: An empty local folder for temporary files.

        Raises:
            InputError: a file cannot be read, or there is nothing to score.
            StorageError: the temporary files do not fit on the disk.
        """


@dataclass(frozen=True)
class FileHistories(ABC):
    """A `HistorySource` over files whose footers are checked.

    Attributes:
        where: See `HistorySource`.
        files: The files.
        logs: The names of a log's columns, and the unit of timestamps that are numbers.
        types: See `HistorySource`.
        user_filter: The users to score, and the end of their histories.
        skip_bad_files: Whether to leave out files that turn out to be unreadable.
        dropped: See `HistorySource`.
        resources: Memory and CPU threads to sort the rows with.
        seen: Which events count as seen; None for all.
        inputs: Types of the events that the model sees; empty for all events.
    """

    where: str
    files: tuple[LogFile, ...]
    logs: LogSettings
    types: IdTypes
    user_filter: UserFilter
    skip_bad_files: bool
    dropped: DroppedRows = field(default_factory=DroppedRows)
    resources: ResourceSettings = DEFAULT_RESOURCES
    seen: SeenEvents | None = None
    inputs: tuple[str, ...] = ()

    def with_last_seen(self, items: pa.Table) -> pa.Table:
        """See `HistorySource`: by the bundle's own events, as the files are not yet read."""
        return items

    def user_ids(self) -> Iterator[pa.Array]:
        """See `HistorySource`."""
        for file in self.files:
            try:
                with readable(file):
                    for batch in read_batches(file, [self.user_column], _BATCH_ROWS):
                        yield plain_ids(batch[self.user_column], self.types.user, file.path)
            except UnreadableFileError:
                if not self.skip_bad_files:
                    raise

    @property
    @abstractmethod
    def user_column(self) -> str:
        """The name of the files' column of user ids."""

    @contextmanager
    def open(self, items: pa.Table, scratch: Path) -> Iterator[OpenedHistories]:
        """See `HistorySource`."""
        with scratch_database(scratch, self.resources) as base:
            yield self._open(base, items)

    @abstractmethod
    def popularity_since(self, items: pa.Table, since: datetime) -> NDArray[np.int64]:
        """See `HistorySource`; the files are read once more for it."""

    @abstractmethod
    def _open(self, base: duckdb.DuckDBPyConnection, items: pa.Table) -> OpenedHistories:
        """Begin to read, with an empty database that stays open while the histories are read."""
