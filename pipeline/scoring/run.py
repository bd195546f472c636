"""The score stage: a bundle and everybody's history to recommendations, in parts."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from model.cores import thread_count
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import count_devices
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.dates import RunDay, days_before
from pipeline.engines.base import Engine, SameProcess
from pipeline.engines.process_pool import ProcessPool
from pipeline.logs.id_lists import check_same_kind, id_list_hash
from pipeline.results import Scored
from pipeline.rules.attributes import needed_attributes
from pipeline.rules.user_segments import segment_file_hashes, segment_files, user_segments
from pipeline.schema import ITEM_ID
from pipeline.scoring.eligibility import eligible_items, item_file_hashes, item_files
from pipeline.scoring.history_source import HistorySource
from pipeline.scoring.inputs import check_overlap, open_inputs
from pipeline.scoring.item_table import check_item_table
from pipeline.scoring.manifest import ResumeKey
from pipeline.scoring.output import open_output
from pipeline.scoring.output_rows import Ranked, RowFormat, RunColumns
from pipeline.scoring.scorer import open_scorer, write_parts
from pipeline.scoring.segment_scorer import UsersPerSegment
from pipeline.scoring.user_histories import UserHistories
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
    users_table: str | None = None,
    users: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad_files: bool = False,
    cache: Path | None = None,
    resources: ResourceSettings = DEFAULT_RESOURCES,
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
        users_table: What is known of the users: see `read_users_table`. It is read where a segment
            of `settings` needs it.
        users: A file of user ids, the only ones to score.
        resume: Continue an interrupted run.
        overwrite: Replace an earlier run's output.
        skip_bad_files: Leave out unreadable files instead of raising an error.
        cache: The folder of TensorRT's engines, which may be deleted at any time.
        resources: The memory to sort logs in; the threads are those of `settings`.
        progress: Is called after every batch, with the users done and all users.

    Raises:
        ConfigError: a setting contradicts the bundle or the input, the provider does not work,
            or the output is a file, is not empty, holds an input or lies in one.
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
        run_date=run_date,
        time_zone=time_zone,
        users=users,
        active_within_days=settings.active_within_days,
        seen_rule=settings.seen_rule,
        skip_bad_files=skip_bad_files,
        resources=resources.model_copy(update={"threads": settings.threads}),
    )
    lists = [*item_files(settings, items_table), *segment_files(settings, users_table)]
    lists += [] if users is None else [os.fspath(users)]
    check_overlap(open_folder(output), opened, lists)
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
            "logs": _resume_part(logs.with_zone(time_zone)),
            "users": None if users is None else os.fspath(users),
            "time_zone": time_zone,
        },
        retired_before=days_before(run_date, settings.retire_after_days, time_zone),
        items_table=items_table,
        users_table=users_table,
        resume=resume,
        overwrite=overwrite,
        cache=cache,
        progress=progress,
    )
    return replace(result, seconds=time.perf_counter() - begun)


def _resume_part(logs: LogSettings) -> dict[str, Any]:
    """The part of the settings in the resume key; version 0.1 knew no zone but UTC."""
    unsaid = {name for name in ("event_type", "value", "keep") if getattr(logs, name) is None}
    unsaid |= {"time_zone"} if logs.time_zone == "UTC" else set()
    return logs.model_dump(mode="json", exclude=unsaid)


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
    users_table: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cache: Path | None = None,
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
            resumed only if they are equal. The allow and deny files and the items table need not
            be among them, nor what segments are made from.
        resume_settings: Further settings that the rows depend on, by name, as JSON values;
            `settings` and `run_date` need not be among them.
        retired_before: Items that were last seen before this instant are not recommended.
        items_table: As for `score`.
        users_table: As for `score`.
        resume: As for `score`.
        overwrite: As for `score`.
        cache: As for `score`.
        progress: As for `score`.

    Raises:
        FearecError: as for `score`.
    """
    begun = time.perf_counter()
    folder = open_folder(output)
    items = bundle.items()
    origin = f"bundle {bundle.path}"
    check_same_kind(source.types.item, source.where, items.schema.field(ITEM_ID).type, origin)
    seen = source.with_last_seen(items)
    attributes = needed_attributes(seen, settings, items_table)
    run_day = RunDay(run_date, time_zone)
    eligibility = eligible_items(seen, settings, retired_before, attributes, run_day)
    segments = user_segments(settings, users_table, source.types.user, source.where)
    check_item_table(bundle)
    # Also for several processes, to raise errors before anything else.
    scorer = open_scorer(bundle, settings, eligibility, cache, 0, segments)
    provider = scorer.recommender.provider
    devices = count_devices(settings.devices, provider)
    engine: Engine[UserHistories, Ranked] = SameProcess(scorer)
    no_users = scorer.rank_no_users(source.types.user)
    if devices > 1:
        shared = settings.model_copy(update={"threads": thread_count(settings.threads, devices)})
        opened = partial(open_scorer, bundle, shared, eligibility, cache, segments=segments)
        engine = ProcessPool(opened, devices)
        del scorer  # frees device 0 for one of the processes
    inputs = {
        **resume_inputs,
        **item_file_hashes(settings, items_table),
        **segment_file_hashes(settings, users_table),
    }
    key = _resume_key(bundle, settings, run_day, inputs, resume_settings or {})
    out = open_output(folder, key, datetime.now(UTC), resume=resume, overwrite=overwrite)
    run_columns = RunColumns(bundle.model_version, run_date, out.manifest.generated_at)
    row_format = RowFormat(
        settings.layout, items[ITEM_ID].combine_chunks(), run_columns, settings.marks_items
    )
    before = out.done.n_users
    per_segment = UsersPerSegment(segments)
    with out.begin() as scratch, source.open(items, scratch) as (total, histories):
        scoring = time.perf_counter()
        write_parts(
            per_segment.counted(histories),
            engine,
            settings.most_items,
            row_format,
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
        precision=settings.precision,
        devices=devices,
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
        absent_types=tuple(sorted(dropped.absent_types)),
        seconds=ended - begun,
        users_per_second=(out.done.n_users - before) / max(ended - scoring, 1e-9),
    )


def _resume_key(
    bundle: Bundle,
    settings: ScoreSettings,
    run_day: RunDay,
    inputs: Mapping[str, str],
    more_settings: Mapping[str, Any],
) -> ResumeKey:
    has_ages = settings.needs_ages or settings.seen_rule
    ends = {"run_end": run_day.end.isoformat()} if has_ages else {}
    return ResumeKey(
        model_version=bundle.model_version,
        bundle=dict(bundle.description.files),
        inputs=dict(inputs),
        settings={
            **settings.result_settings(),
            **more_settings,
            **ends,
            "run_date": run_day.run_date.isoformat(),
        },
    )
