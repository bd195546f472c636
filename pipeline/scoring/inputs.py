"""The input files of `fearec-score`: interaction logs or sequences, distinguished by columns."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import pyarrow as pa

from pipeline.bundles.description import BUNDLE_INPUTS
from pipeline.config.sections import LogSettings
from pipeline.config.seen_rule import SeenRule
from pipeline.dates import RunDay
from pipeline.errors import ConfigError, InputError, SchemaError, UnreadableFileError
from pipeline.logs.chosen_types import no_event_types
from pipeline.logs.id_lists import read_ids
from pipeline.logs.log_content import read_footer
from pipeline.logs.log_files import LogFile, list_log_files, would_list
from pipeline.logs.validation import IdTypes, check_columns, check_keep, common_types
from pipeline.schema import ITEM_IDS, USER_ID
from pipeline.scoring.history_source import HistorySource
from pipeline.scoring.log_reader import LogHistories
from pipeline.scoring.sequence_reader import SequenceHistories, check_sequence_columns
from pipeline.scoring.user_histories import DroppedRows, UserFilter
from pipeline.storage.folders import Folder, open_filesystem, open_folder
from pipeline.storage.resources import ResourceSettings


@dataclass(frozen=True)
class InputFiles:
    """Files of one kind, whose footers were read. Get them with `open_inputs`.

    Attributes:
        paths: The paths that the caller gave.
        files: The readable files.
        columns: Each file's Arrow schema.
        are_sequences: Whether the files are sequences; otherwise they are interaction logs.
        skipped: The paths of unreadable files.
    """

    paths: tuple[str, ...]
    files: tuple[LogFile, ...]
    columns: tuple[pa.Schema, ...]
    are_sequences: bool
    skipped: frozenset[str]

    def histories(
        self,
        logs: LogSettings,
        item_type: pa.DataType,
        *,
        run_date: date,
        time_zone: str,
        users: str | os.PathLike[str] | None,
        active_within_days: int | None,
        seen_rule: SeenRule | None,
        input_types: tuple[str, ...] = (),
        recent_popularity: bool = False,
        skip_bad_files: bool,
        resources: ResourceSettings,
    ) -> HistorySource:
        """The histories in the files, whose columns are checked.

        Args:
            logs: The names of a log's columns.
            item_type: Of the model's item ids; those of files that give their ids no type get it.
            run_date: As in `UserFilter`.
            time_zone: As in `UserFilter`.
            users: A file of the user ids to score; None for all users.
            active_within_days: As in `UserFilter`.
            seen_rule: Which events count as seen; None for all.
            input_types: Types of the events that the model sees; empty for all events.
            recent_popularity: Whether `popularity_since` will be asked for.
            skip_bad_files: Whether to leave out files that turn out to be unreadable.
            resources: As in `FileHistories`.

        Raises:
            SchemaError: a column is missing or has a type that cannot be used.
            ConfigError: active users or recent events are asked for, and sequences have no
                timestamps; types of events are, and there are none; or `logs.keep` cannot be used
                with the ids of the logs.
            InputError: the file of user ids cannot be read.
        """
        needed_for = "popular_within_days" if recent_popularity else None
        needed_for = "active_within_days" if active_within_days is not None else needed_for
        if seen_rule and seen_rule.within_days is not None:
            needed_for = needed_for or "exclude_seen"
        if self.are_sequences or not logs.event_type:
            seen_types = seen_rule.event_types if seen_rule else ()
            needed_by = "score.exclude_seen" if seen_types else BUNDLE_INPUTS
            if seen_types or input_types:
                raise no_event_types(needed_by, ", ".join(self.paths))
        logs = logs.with_zone(time_zone)

        def id_types(file: LogFile, columns: pa.Schema) -> IdTypes:
            if self.are_sequences:
                return check_sequence_columns(columns, file.path, times_needed_for=needed_for)
            return check_columns(columns, logs, file.path)

        pairs = zip(self.files, self.columns, strict=True)
        found = {file.path: id_types(file, columns) for file, columns in pairs}
        types = common_types(found)
        if all(pa.types.is_null(each.item) for each in found.values()):
            types = replace(types, item=item_type)
        if not self.are_sequences:
            check_keep(logs, types)
        ids = None if users is None else read_ids(users, USER_ID, types.user, self.files[0].path)
        reader = SequenceHistories if self.are_sequences else LogHistories
        return reader(
            where=", ".join(self.paths),
            files=self.files,
            logs=logs,
            types=types,
            user_filter=UserFilter(run_date, time_zone, ids, active_within_days),
            skip_bad_files=skip_bad_files,
            dropped=DroppedRows(skipped_files=set(self.skipped)),
            resources=resources,
            seen=seen_rule.on(RunDay(run_date, time_zone)) if seen_rule else None,
            inputs=input_types,
        )


def open_inputs(paths: Sequence[str], *, skip_bad_files: bool) -> InputFiles:
    """List the input files and read their footers.

    Args:
        paths: Files, folders or globs, local or in an object store.
        skip_bad_files: Whether to leave out files that are not readable.

    Raises:
        InputError: a path is missing, or a file cannot be read.
        SchemaError: some files are logs and others are sequences.
    """
    found: list[tuple[LogFile, pa.Schema]] = []
    without_rows: list[tuple[LogFile, pa.Schema]] = []
    skipped: set[str] = set()
    for file in list_log_files(list(paths)):
        try:
            footer = read_footer(file)
            kind = without_rows if footer.num_rows == 0 else found
            kind.append((file, footer.columns))
        except UnreadableFileError:
            if not skip_bad_files:
                raise
            skipped.add(file.path)
    found = found or without_rows  # whose columns may be missing or of type null
    if not found:
        raise InputError(
            "no readable file", ", ".join(paths), expected="Parquet, CSV or JSON lines"
        )
    kinds = [ITEM_IDS in columns.names for _, columns in found]
    if len(set(kinds)) > 1:
        other = found[kinds.index(not kinds[0])][0].path
        raise SchemaError(
            "logs and sequences cannot be scored together",
            other,
            expected="sequences" if kinds[0] else "an interaction log",
            found="an interaction log" if kinds[0] else "sequences",
            remedy="Score them in two runs.",
        )
    files, columns = zip(*found, strict=True)
    return InputFiles(tuple(paths), files, columns, kinds[0], frozenset(skipped))


def check_overlap(
    folder: Folder, inputs: InputFiles, lists: Sequence[str], user_lists: Sequence[str] = ()
) -> None:
    """Check that the output folder neither holds an input nor lies in one.

    Args:
        folder: The output folder.
        inputs: The input files.
        lists: Paths of files of ids.
        user_lists: Paths of files of users and items; these, like inputs, may be folders and globs.

    Raises:
        ConfigError: an input file or a file of ids lies in the folder, at any depth; or the folder
            lies in an input path, which would then include its parts.
    """
    files = [*inputs.files, *(file for path in user_lists for file in list_log_files(path))]
    read = [(file.filesystem, file.path) for file in files]
    for filesystem, path in [*read, *map(open_filesystem, lists)]:
        if folder.holds(filesystem, path):
            raise ConfigError(
                "the output folder holds an input",
                folder.where,
                found=path,
                remedy="Give another folder.",
            )
    for path in (*inputs.paths, *user_lists):
        if would_list(path, folder.filesystem, folder.path("part-00000.parquet")):
            raise ConfigError(
                "the output folder lies in an input, which would then include the output's parts",
                folder.where,
                found=path,
                remedy="Give a folder outside of it.",
            )


def check_outside_bundle(folder: Folder, bundle: str | os.PathLike[str]) -> None:
    """Check that the output folder neither lies in the bundle's folder nor holds it.

    Args:
        folder: The output folder.
        bundle: The path or URI of the bundle's folder, which never changes after it was written.

    Raises:
        ConfigError: it does; or the bundle's URI is not usable.
    """
    model = open_folder(bundle)
    inside = model.holds(folder.filesystem, folder.root)
    if inside or folder.holds(model.filesystem, model.root):
        raise ConfigError(
            f"the output folder {'lies in' if inside else 'holds'} the bundle",
            folder.where,
            found=model.where,
            remedy="Give a folder outside of it." if inside else "Give another folder.",
        )
