"""A scored part on its way into the output folder: lists, and the content of their file."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import BECAUSE, ITEM_ID, PAD, SCORE, SOURCE
from pipeline.scoring.manifest import FinishedPart, PartCounts
from pipeline.scoring.output_rows import Ranked, RowFormat


@dataclass(frozen=True)
class EncodedPart:
    """A part as it goes into the folder.

    Attributes:
        content: Of its Parquet file.
        finished: Its entry in the manifest.
    """

    content: pa.Buffer
    finished: FinishedPart

    @classmethod
    def of(cls, table: pa.Table, counts: PartCounts) -> Self:
        """The part with these rows."""
        content = parquet_file(table)
        digest = sha256(content).hexdigest()
        return cls(content, FinishedPart(**counts.model_dump(), content_hash=digest))

    def encoded(self) -> "EncodedPart":
        """Itself."""
        return self


@dataclass(frozen=True)
class RankedPart:
    """A part whose rows are yet to be made.

    Attributes:
        ranked: The lists of its users.
        row_format: Makes rows of them.
    """

    ranked: Ranked
    row_format: RowFormat

    def encoded(self) -> EncodedPart:
        """The part as it goes into the folder."""
        table = self.row_format.rows(self.ranked)
        sizes = (self.ranked.item_index != PAD).sum(axis=1)
        counts = PartCounts(
            n_users=len(sizes),
            n_rows=table.num_rows,
            n_fallback=int(self.ranked.popular.sum()),
            n_short=int((sizes < self.ranked.wanted).sum()),
        )
        return EncodedPart.of(table, counts)


def parquet_file(table: pa.Table) -> pa.Buffer:
    """The content of the file of a part with these rows."""
    file = pa.BufferOutputStream()
    pq.write_table(table, file, compression="zstd", use_dictionary=_repeating(table))
    return file.getvalue()


def _repeating(table: pa.Table) -> list[str]:
    """Parquet's names of the columns with repeated values: all but the scores."""
    names = [name for name in table.schema.names if name != SCORE]
    return [
        *names,
        *(f"recommendations.list.element.{name}" for name in (ITEM_ID, SOURCE, BECAUSE)),
    ]
