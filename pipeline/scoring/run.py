"""The score stage: a bundle and everybody's history to recommendations, in parts."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.dates import RunDay, days_before
from pipeline.logs.id_lists import check_same_kind, id_list_hash
from pipeline.results import Scored
from pipeline.rules.attributes import needed_attributes
from pipeline.rules.user_segments import segment_files, user_segments
from pipeline.schema import ITEM_ID
from pipeline.scoring.eligibility import eligible_items, item_files
from pipeline.scoring.engine_choice import scoring_engine
from pipeline.scoring.history_source import HistorySource
from pipeline.scoring.inputs import check_outside_bundle, check_overlap, open_inputs
from pipeline.scoring.item_table import check_item_table
from pipeline.scoring.output import open_output
from pipeline.scoring.output_rows import Ranked, RowFormat, RunColumns
from pipeline.scoring.part_worker import WorkerOpener
from pipeline.scoring.resume_keys import log_names, resume_key, rule_file_hashes
from pipeline.scoring.scorer import open_scorer, write_parts
from pipeline.scoring.segment_scorer import UsersPerSegment
from pipeline.scoring.user_list_reader import read_user_lists
from pipeline.scoring.user_lists import ListedUsers
from pipeline.storage.folders import open_folder
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings

# Takes the number of users done, and of all users, or None where that is not known.
Progress = Callable[[int, int | None], None]


def score(
    inputs: Sequence[str],
    bundle: Bundle,
    output: str | os.PathLike[str],
    settings: ScoreSettings,
    *,
    logs: LogSettings,
    run_date: date,
    time_zone: str,
    items_table: str | None = None,
    similar_by: tuple[str, ...] = (),
    users_table: str | None = None,
    users: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad_files: bool = False,
    cache: Path | None = None,
    resources: ResourceSettings = DEFAULT_RESOURCES,
    engine: EngineSettings = LOCAL,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Recommend `top_k` items to every user in logs or sequences.

    Users of logs come in the order of their ids, users of sequences in the order of the rows.

    Args:
        inputs: Interaction logs or sequences: files, folders, globs, local or in object stores.
        bundle: The model.
        output: The folder of the parts, local or in an object store.
        settings: What to recommend.
        logs: The names of the logs' columns.
        run_date: Whole histories up to the end of this day count.
        time_zone: The IANA time zone of that day.
        items_table: What is known of the items: see `read_items_table`. It is read where a rule of
            `settings` needs it.
        similar_by: Columns of that table by which items are similar, for `settings.new_items`.
        users_table: What is known of the users: see `read_users_table`. It is read where a segment
            of `settings` needs it.
        users: A file of user ids, the only ones to score.
        resume: Continue an interrupted run.
        overwrite: Replace an earlier run's output.
        skip_bad_files: Leave out unreadable files instead of raising an error.
        cache: The folder of TensorRT's engines, which may be deleted at any time.
        resources: The memory to sort logs and listed items in; the threads of the logs' sort are
            those of `settings`.
        engine: Where users are scored; the rows are the same.
        progress: Is called after every batch, with the users done and all users.

    Raises:
        ConfigError: a setting contradicts the bundle or the input, the provider does not work,
            the output is a file, is not empty, holds an input or the bundle or lies in one, or the
            engine cannot be reached.
        ResumeError: there is no run of this bundle, input and settings to resume.
        InputError: an input is missing or unreadable.
        SchemaError: an input's columns cannot be used with this bundle.
        BundleError: the graph cannot be loaded, or computes scores that are NaN or infinite.
        BusyError: another run writes to the output.
        PublishError: the output cannot be written.
        StorageError: the output cannot be read, or there is no space for temporary files.
    """
    begun = time.perf_counter()
    opened = open_inputs(inputs, skip_bad_files=skip_bad_files)
    source = opened.histories(
        logs,
        bundle.item_type,
        run_date=run_date,
        time_zone=time_zone,
        users=users,
        active_within_days=settings.active_within_days,
        seen_rule=settings.seen_rule,
        input_types=bundle.description.input_types,
        recent_popularity=settings.popular_within_days is not None,
        skip_bad_files=skip_bad_files,
        resources=resources.model_copy(update={"threads": settings.threads}),
    )
    lists = [*item_files(settings, items_table), *segment_files(settings, users_table)]
    lists += [] if users is None else [os.fspath(users)]
    folder = open_folder(output)
    check_outside_bundle(folder, bundle.path)
    check_overlap(folder, opened, lists, settings.user_lists)
    resume_inputs = {file.path: file.stamp for file in opened.files}
    if users is not None:
        resume_inputs[os.fspath(users)] = id_list_hash(users)
    result = score_histories(
        source,
        bundle,
        output,
        settings,
        run_date=run_date,
        time_zone=time_zone,
        resume_inputs=resume_inputs,
        resume_settings={
            "logs": log_names(logs.with_zone(time_zone)),
            "users": None if users is None else os.fspath(users),
            "time_zone": time_zone,
        },
        retired_before=days_before(run_date, settings.retire_after_days, time_zone),
        items_table=items_table,
        similar_by=similar_by,
        users_table=users_table,
        resume=resume,
        overwrite=overwrite,
        cache=cache,
        resources=resources,
        engine=engine,
        progress=progress,
    )
    return replace(result, seconds=time.perf_counter() - begun)


def score_histories(
    source: HistorySource,
    bundle: Bundle,
    output: str | os.PathLike[str],
    settings: ScoreSettings,
    *,
    run_date: date,
    time_zone: str = "UTC",
    resume_inputs: Mapping[str, str],
    resume_settings: Mapping[str, Any] | None = None,
    retired_before: datetime | None = None,
    items_table: str | None = None,
    similar_by: tuple[str, ...] = (),
    users_table: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cache: Path | None = None,
    resources: ResourceSettings = DEFAULT_RESOURCES,
    engine: EngineSettings = LOCAL,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Recommend `top_k` items to every user of a history source: `score` without the input files.

    The source alone decides which users are scored, where their histories end and which of their
    events count as seen: `settings.active_within_days` and `settings.seen_rule` are not applied
    here, nor is `settings.retire_after_days`.

    Args:
        source: The histories.
        bundle: The model.
        output: As for `score`; it must not hold or lie in the source's files.
        settings: What to recommend.
        run_date: The column `run_date` of the output, to whose end the ages of items are counted.
        time_zone: The IANA time zone of that day.
        resume_inputs: Identifies the content of the source: a hash or stamp by name. A run is
            resumed only if they are equal. The files of `settings` and the tables of items and
            users need not be among them.
        resume_settings: Further settings that the rows depend on, by name, as JSON values;
            `settings` and `run_date` need not be among them.
        retired_before: Items that were last seen before this instant are not recommended.
        items_table: As for `score`.
        similar_by: As for `score`.
        users_table: As for `score`.
        resume: As for `score`.
        overwrite: As for `score`.
        cache: As for `score`.
        resources: The memory and the threads to sort the files of candidates and exclusions with.
        engine: As for `score`.
        progress: As for `score`.

    Raises:
        FearecError: as for `score`.
    """
    begun = time.perf_counter()
    folder = open_folder(output)
    # Before these files are read: one that changes meanwhile is another when the run is resumed.
    inputs = {**resume_inputs, **rule_file_hashes(settings, items_table, users_table)}
    items = bundle.items()
    origin = f"bundle {bundle.path}"
    check_same_kind(source.types.item, source.where, items.schema.field(ITEM_ID).type, origin)
    seen = source.with_last_seen(items)
    attributes = needed_attributes(seen, settings, items_table, similar_by)
    run_day = RunDay(run_date, time_zone)
    since = days_before(run_date, settings.popular_within_days, time_zone)
    recent = None if since is None else source.popularity_since(items, since)
    eligibility = eligible_items(seen, settings, retired_before, attributes, run_day, recent)
    segments = user_segments(settings, users_table, source.types.user, source.where)
    every_item = eligibility.with_others(items)
    user_lists = read_user_lists(settings, source, every_item, resources)
    check_item_table(bundle)
    no_users = Ranked.of_nobody(source.types.user, because=settings.because)
    more = {"similar_by": list(similar_by)} if settings.new_items else {}
    key = resume_key(bundle, settings, run_day, inputs, {**(resume_settings or {}), **more})
    out = open_output(folder, key, datetime.now(UTC), resume=resume, overwrite=overwrite)
    run_columns = RunColumns(bundle.model_version, run_date, out.manifest.generated_at)
    row_format = RowFormat(
        settings.layout,
        every_item[ITEM_ID].combine_chunks(),
        run_columns,
        settings.marks_items,
        eligibility.is_new,
    )
    open_one = partial(
        open_scorer,
        eligibility=eligibility,
        cache=cache,
        user_lists=user_lists,
        segments=segments,
    )
    opener = WorkerOpener(open_one, row_format)
    opening, provider = scoring_engine(opener, bundle, settings, engine)
    before = out.done.n_users
    with (
        opening as workers,
        out.begin() as scratch,
        source.open(every_item, scratch) as (total, histories),
    ):
        scoring, listed = time.perf_counter(), ListedUsers(user_lists)
        per_segment = UsersPerSegment(segments)
        write_parts(
            per_segment.counted(listed.counted(histories)),
            workers,
            settings.most_items,
            out,
            lambda done: progress(done, total),
        )
        out.finish(row_format.rows(no_users))
    ended = time.perf_counter()
    dropped = source.dropped
    return Scored(
        folder=folder.where,
        model_version=bundle.model_version,
        provider=provider,
        precision="fp32" if settings.candidates else settings.precision,
        devices=workers.count,
        n_users=out.done.n_users,
        n_rows=out.done.n_rows,
        n_fallback=out.done.n_fallback,
        n_short=out.done.n_short,
        dropped={reason: count for reason, count in dropped.by_reason.items() if count},
        duplicates=dropped.duplicates,
        filtered=dropped.filtered,
        unknown_items=dropped.unknown_items,
        unknown_listed=eligibility.n_unknown,
        absent_users=dropped.absent_users,
        skipped_files=tuple(sorted(dropped.skipped_files)),
        rules=eligibility.rules,
        segments=per_segment.counts,
        new_items=eligibility.lists.new_counts,
        n_recent=None if recent is None else int(recent.sum()),
        absent_types=tuple(sorted(dropped.absent_types)),
        seconds=ended - begun,
        users_per_second=(out.done.n_users - before) / max(ended - scoring, 1e-9),
        candidates=listed.counts.get("candidates"),
        exclude=listed.counts.get("exclude"),
    )
