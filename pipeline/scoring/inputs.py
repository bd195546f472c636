"""What `fearec-score` is given: interaction logs or sequences, told apart by their columns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.config.sections import LogSettings
from pipeline.errors import ConfigError, InputError, SchemaError
from pipeline.logs.log_files import LogFile, list_log_files, read_columns, would_list
from pipeline.logs.validation import IdTypes, check_columns, common_types
from pipeline.schema import ITEM_IDS
from pipeline.scoring.log_reader import log_histories
from pipeline.scoring.sequence_reader import check_sequence_columns, sequence_histories
from pipeline.scoring.user_histories import DroppedRows, UserFilter, UserHistories
from pipeline.storage.folders import Folder, open_filesystem
from pipeline.storage.scratch_db import scratch_database


@dataclass(frozen=True)
class ScoreInputs:
    """Checked files of one kind. Get them with `open_inputs`."""

    given: str  # the paths, as the caller named them
    files: tuple[LogFile, ...]
    schemas: tuple[pa.Schema, ...]
    are_sequences: bool

    def types(self, logs: LogSettings, *, times_needed: bool) -> IdTypes:
        """Check every file's columns; the id types that hold all of them.

        Raises:
            SchemaError: a column is missing or has a type that cannot be used.
            ConfigError: the times that are needed to tell active users are not there.
        """
        return common_types(
            {
                file.path: check_sequence_columns(schema, file.path, times_needed=times_needed)
                if self.are_sequences
                else check_columns(schema, logs, file.path)
                for file, schema in zip(self.files, self.schemas, strict=True)
            }
        )

    @contextmanager
    def histories(
        self,
        logs: LogSettings,
        types: IdTypes,
        items: pa.Table,
        wanted: UserFilter,
        tally: DroppedRows,
        *,
        scratch: Path,
        skip_bad_files: bool,
    ) -> Iterator[tuple[int | None, Iterator[UserHistories]]]:
        """How many users there are, if that can be told, and their histories, to be read inside.

        Raises:
            InputError: a file cannot be read, or there is no row to use.
            FearecError: the temporary files do not fit on the disk.
        """
        read = sequence_histories if self.are_sequences else log_histories
        with scratch_database(scratch) as base:
            yield read(
                base,
                self.files,
                logs,
                types,
                items,
                wanted,
                tally,
                where=self.given,
                skip_bad_files=skip_bad_files,
            )


def open_inputs(paths: Sequence[str], tally: DroppedRows, *, skip_bad_files: bool) -> ScoreInputs:
    """Find the files and read their footers.

    Args:
        paths: Files, folders or globs, local or in an object store.
        tally: The files skipped are entered here.
        skip_bad_files: Do without files that are not readable Parquet.

    Raises:
        InputError: a path is missing, or a file cannot be read.
        SchemaError: some files are logs and others are sequences.
    """
    found: list[tuple[LogFile, pa.Schema]] = []
    for file in list_log_files(list(paths)):
        try:
            found.append((file, read_columns(file)))
        except InputError:
            if not skip_bad_files:
                raise
            tally.skipped_files.add(file.path)
    given = ", ".join(paths)
    if not found:
        raise InputError("no readable file", given, expected="Parquet")
    kinds = [ITEM_IDS in schema.names for _, schema in found]
    if len(set(kinds)) > 1:
        other = found[kinds.index(not kinds[0])][0].path
        raise SchemaError(
            "logs and sequences cannot be scored together",
            other,
            expected="sequences" if kinds[0] else "an interaction log",
            found="an interaction log" if kinds[0] else "sequences",
            remedy="Score them in two runs.",
        )
    files, schemas = zip(*found, strict=True)
    return ScoreInputs(given, files, schemas, kinds[0])


def refuse_overlap(
    folder: Folder, inputs: Sequence[str], opened: ScoreInputs, lists: Sequence[str]
) -> None:
    """Refuse an output folder that holds what is being read, or whose parts would be read next.

    Args:
        folder: Of the output.
        inputs: As given to `open_inputs`.
        opened: What it found there.
        lists: The files of ids.

    Raises:
        ConfigError: an input file or a list of ids lies in the folder, at any depth, or the
            folder lies in an input.
    """
    read = [(file.filesystem, file.path) for file in opened.files]
    for filesystem, path in [*read, *map(open_filesystem, lists)]:
        if folder.holds(filesystem, path):
            raise ConfigError(
                "the output folder holds an input",
                folder.where,
                found=path,
                remedy="Give another folder.",
            )
    for path in inputs:
        if would_list(path, folder.filesystem, folder.path("part-00000.parquet")):
            raise ConfigError(
                "the output folder lies in an input, of which its parts would become a part",
                folder.where,
                found=path,
                remedy="Give a folder outside of it.",
            )
