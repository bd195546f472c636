"""The types of events of a run, in the order of their names, and how many events each has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import naming
from pipeline.schema import EVENT_TYPE, EVENT_TYPES_SCHEMA

NO_TYPE = 0  # the index of an event without a type


@dataclass(frozen=True)
class EventTypes:
    """All types that an event of a run has.

    Attributes:
        counts: Columns as in `EVENT_TYPES_SCHEMA`, in the order of the names.
    """

    counts: pa.Table

    @classmethod
    def of(cls, counts: pa.Table) -> Self:
        """Those with any event, of a table with the columns `event_type` and `n_events`."""
        counts = counts.select(EVENT_TYPES_SCHEMA.names).cast(EVENT_TYPES_SCHEMA)
        there = pc.and_(counts[EVENT_TYPE].is_valid(), pc.greater(counts["n_events"], 0))
        return cls(counts.filter(there).sort_by(EVENT_TYPE).combine_chunks())

    @classmethod
    def read(cls, source: pa.NativeFile) -> Self:
        """Those in an earlier `event_types.parquet`."""
        return cls(pq.read_table(source, schema=EVENT_TYPES_SCHEMA))

    @property
    def names(self) -> pa.Array:
        """(T,) that of index 1 first."""
        return self.counts[EVENT_TYPE].combine_chunks()

    def moved_from(self, earlier: Self) -> NDArray[np.int32] | None:
        """The index here of each index in `earlier`, (T+1,); None where every one is the same.

        A type that no event has any more moves to `NO_TYPE`.
        """
        if self.names.equals(earlier.names):
            return None
        indices: NDArray[np.int32] = index_of_types(earlier.names, self.names).to_numpy()
        return np.concatenate([np.array([NO_TYPE], np.int32), indices])

    def write(self, path: Path) -> None:
        """Write `event_types.parquet`."""
        with naming(path):
            pq.write_table(self.counts, path, compression="zstd")


def index_of_types(types: pa.Array, names: pa.Array) -> pa.Array:
    """The place of each event's type among some names, from 1; `NO_TYPE` for the others, int32.

    Args:
        types: (N,) strings, which may be a dictionary's.
        names: (T,) strings.
    """
    if pa.types.is_dictionary(types.type):
        index = index_of_types(types.dictionary, names).take(types.indices)
        return index.fill_null(NO_TYPE)
    return pc.add(pc.index_in(types, value_set=names), 1).fill_null(NO_TYPE)
