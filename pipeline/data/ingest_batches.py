"""Batches of log files: each is committed before the next is read, so that a kill loses minutes."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pipeline.data.source_files import SourceFile
from pipeline.logs.log_content import Footer
from pipeline.logs.log_files import LogFile
from pipeline.results import Ingested

BATCH_ROWS = 5_000_000  # 1 GB of a scratch database, with ids of 36 characters

_BYTES_OF_TEXT = 40  # per row, where only reading would tell how many rows there are


@dataclass(frozen=True)
class Batch:
    """Files that are read and committed together.

    Attributes:
        files: Of this batch.
        rows: The rows that the files have.
        before: The rows of the batches before it.
        total: The rows of all batches.
    """

    files: Sequence[LogFile]
    rows: int
    before: int
    total: int

    @property
    def is_last(self) -> bool:
        """Whether no rows come after it."""
        return self.before + self.rows == self.total

    def counted(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """A function of the share of this batch that reports the rows of all batches."""
        return lambda done, of: progress(self.before + self.rows * done // max(1, of), self.total)


def in_batches(footers: Mapping[LogFile, Footer]) -> list[Batch]:
    """The files in batches of `BATCH_ROWS` rows at most, or of one file; at least one batch.

    Args:
        footers: Of the files, in the order of their names.
    """
    files = list(footers)
    counts = [_rows_of(file, footer.num_rows) for file, footer in footers.items()]
    cuts, rows = [0], 0
    for position, count in enumerate(counts):
        if rows and count and rows + count > BATCH_ROWS:
            cuts.append(position)
            rows = 0
        rows += count
    ends = [*cuts[1:], len(files)]
    return [
        Batch(files[begin:end], sum(counts[begin:end]), sum(counts[:begin]), sum(counts))
        for begin, end in zip(cuts, ends, strict=True)
    ]


def _rows_of(file: LogFile, rows: int | None) -> int:
    return max(1, file.size // _BYTES_OF_TEXT) if rows is None else rows


def summed(results: Iterable[Ingested]) -> Ingested:
    """The result of several batches; the table's version is the last one's."""
    total, *others = results
    for other in others:
        reasons = Counter(total.quarantined_by_reason) + Counter(other.quarantined_by_reason)
        total = replace(
            other,
            files=total.files + other.files,
            rows=total.rows + other.rows,
            added=total.added + other.added,
            duplicates=total.duplicates + other.duplicates,
            quarantined=total.quarantined + other.quarantined,
            withdrawn=total.withdrawn + other.withdrawn,
            quarantined_by_reason=dict(sorted(reasons.items())),
            filtered=total.filtered + other.filtered,
        )
    return total


def work_of(unread: Iterable[SourceFile], forgotten: Iterable[str]) -> str:
    """A hash of what a batch reads and withdraws; empty where that is nothing."""
    parts = [*((source.name, source.stamp) for source in unread), *forgotten]
    return hashlib.sha256(repr(parts).encode()).hexdigest() if parts else ""


def with_unfinished(
    result: Ingested, work: str, notes: Iterable[Mapping[str, Any]], run_date: date
) -> Ingested:
    """The result of a batch, with what ingests did that were ended before they noted its files.

    Args:
        result: As if there had been none.
        work: Of the batch.
        notes: Of the commits of `interactions` since files were noted, newest first.
        run_date: Notes of others are left out.
    """
    for note in notes:
        if note["run_date"] != str(run_date) or not note.get("work"):
            continue
        before = Ingested(**note["result"])
        if note["work"] == work:
            return before
        return replace(
            result,
            added=result.added + before.added,
            withdrawn=result.withdrawn + before.withdrawn,
            duplicates=max(0, result.duplicates - before.added),
        )
    return result
