"""Stage: a bundle and everybody's history to recommendations, in parts, with ONNX Runtime."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import n_devices
from pipeline.config.sections import LogSettings, ScoreSettings
from pipeline.engines.process_pool import Devices
from pipeline.errors import BundleError
from pipeline.logs.id_lists import digest_of, read_ids, refuse_mixed
from pipeline.schema import ITEM_ID, USER_ID
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.inputs import ScoreInputs, open_inputs, refuse_overlap
from pipeline.scoring.manifest import ResumeKey
from pipeline.scoring.output import open_output
from pipeline.scoring.output_rows import RowFormat, RunColumns
from pipeline.scoring.scorer import Ranker, open_scorer, write_parts
from pipeline.scoring.user_histories import DroppedRows, UserFilter
from pipeline.storage.folders import open_folder

# Users done and, where it can be told, of how many.
Progress = Callable[[int, int | None], None]

_CHUNK = 2**24  # floats


@dataclass(frozen=True)
class ScoreResult:
    """Where the recommendations are, and what became of the input.

    Attributes:
        folder: The output's path or URI.
        model_version: Of the bundle.
        provider: The execution provider that did it.
        precision: fp32 or fp16.
        devices: How many of them.
        n_users: Users in the output, those of an earlier, resumed run included.
        n_rows: Rows in the output.
        n_fallback: Users without a known item, given popular items.
        n_short: Users given fewer than `top_k` items.
        dropped: Rows the row rules refused, by reason.
        duplicates: Exact repeats of (user, item, timestamp), kept once.
        unknown_items: Events with items that the bundle does not know, left out.
        unknown_listed: Ids in the allow and deny files that the bundle does not know.
        absent_users: Users asked for that have no row.
        skipped_files: Unreadable files done without.
        seconds: From the call to the last row.
        users_per_second: Users scored in this run, a second of scoring them.
    """

    folder: str
    model_version: str
    provider: str
    precision: str
    devices: int
    n_users: int
    n_rows: int
    n_fallback: int
    n_short: int
    dropped: Mapping[str, int]
    duplicates: int
    unknown_items: int
    unknown_listed: int
    absent_users: int
    skipped_files: tuple[str, ...]
    seconds: float
    users_per_second: float


def score(
    inputs: Sequence[str],
    bundle: Bundle,
    output: str | os.PathLike[str],
    settings: ScoreSettings,
    *,
    logs: LogSettings,
    run_date: date,
    time_zone: str,
    users: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad_files: bool = False,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> ScoreResult:
    """Recommend `top_k` items to every user.

    Users of logs come out in the order of their ids, users of sequences in the order they came.

    Args:
        inputs: Interaction logs or sequences: files, folders, globs, local or in object stores.
        bundle: The model.
        output: A folder for the parts, local or in an object store.
        settings: What to recommend.
        logs: What the logs' columns are called.
        run_date: Whole histories up to the end of this day count.
        time_zone: Whose calendar that is.
        users: A file of user ids: only they are scored.
        resume: Go on where a run that was cut short left off.
        overwrite: Replace an earlier run's output.
        skip_bad_files: Do without unreadable files instead of refusing them.
        cache: Where TensorRT keeps what it builds; a folder that may be deleted.
        progress: Is called with the users done and of how many, after every batch.

    Raises:
        ConfigError: a setting contradicts the bundle or the input, the provider does not work,
            or the output is no folder, is not empty, holds an input or lies in one.
        ResumeError: there is no run of this bundle, input and settings to resume.
        InputError: an input is missing or unreadable.
        SchemaError: an input's columns cannot be used with this bundle.
        BundleError: the graph cannot be loaded, or computes what is no number.
        BusyError: another run writes to the output.
        PublishError: the output cannot be written.
        StorageError: the output cannot be looked at.
    """
    begun = time.perf_counter()
    folder = open_folder(output)
    items = bundle.items()
    eligibility = eligible_items(items, settings)
    tally = DroppedRows()
    opened = open_inputs(inputs, tally, skip_bad_files=skip_bad_files)
    types = opened.types(logs, times_needed=settings.active_within_days is not None)
    where = opened.files[0].path
    refuse_mixed(types.item, where, items.schema.field(ITEM_ID).type, f"bundle {bundle.path}")
    wanted = UserFilter(
        run_date,
        time_zone,
        None if users is None else read_ids(users, USER_ID, types.user, where),
        settings.active_within_days,
    )
    _refuse_nan(bundle)
    make = partial(open_scorer, bundle, settings, eligibility, cache)
    scorer = make(0)  # of several devices too: what does not work is told before all else
    provider = scorer.recommender.provider
    devices = n_devices(settings.devices, provider)
    ranker: Ranker = scorer
    nobody = scorer.nobody(types.user)
    if devices > 1:
        ranker = Devices(make, devices, settings.top_k)
        del scorer  # its place on device 0 is for one of them
    lists = [os.fspath(path) for path in (settings.allow, settings.deny, users) if path is not None]
    binding = _binding(bundle, opened, lists, settings, logs, run_date, time_zone, users)
    refuse_overlap(folder, inputs, opened, lists)
    out = open_output(folder, binding, datetime.now(UTC), resume=resume, overwrite=overwrite)
    stamp = RunColumns(bundle.model_version, run_date, out.manifest.generated_at)
    layout = RowFormat(settings.layout, items[ITEM_ID].combine_chunks(), stamp)
    before = out.done.n_users
    with (
        out.begin() as scratch,
        opened.histories(
            logs, types, items, wanted, tally, scratch=scratch, skip_bad_files=skip_bad_files
        ) as (total, histories),
    ):
        scoring = time.perf_counter()
        write_parts(histories, ranker, layout, out, lambda done: progress(done, total))
        out.finish(layout.rows(nobody))
    ended = time.perf_counter()
    return ScoreResult(
        folder=folder.where,
        model_version=bundle.model_version,
        provider=provider,
        precision=settings.precision,
        devices=devices,
        n_users=out.done.n_users,
        n_rows=out.done.n_rows,
        n_fallback=out.done.n_fallback,
        n_short=out.done.n_short,
        dropped={reason: count for reason, count in tally.dropped.items() if count},
        duplicates=tally.duplicates,
        unknown_items=tally.unknown_items,
        unknown_listed=eligibility.n_unknown,
        absent_users=tally.absent_users,
        skipped_files=tuple(sorted(tally.skipped_files)),
        seconds=ended - begun,
        users_per_second=(out.done.n_users - before) / max(ended - scoring, 1e-9),
    )


def _refuse_nan(bundle: Bundle) -> None:
    """A NaN would sort before every score."""
    size = bundle.item_table.stat().st_size
    column = bundle.n_items * np.dtype(np.float32).itemsize
    if not size or size % column:
        raise BundleError(
            "the item table does not fit the model",
            str(bundle.item_table),
            expected=f"a multiple of {column:,} bytes",
            found=f"{size:,}",
            remedy="Export the model again.",
        )
    table = np.memmap(bundle.item_table, np.float32, "r")
    for begin in range(0, len(table), _CHUNK):
        bad = np.flatnonzero(~np.isfinite(table[begin : begin + _CHUNK]))
        if len(bad):
            row = int(begin + bad[0]) // (len(table) // bundle.n_items)
            raise BundleError(
                "the item table holds a value that is not finite",
                f"{bundle.item_table} row {row}",
                remedy="Training went astray: train and export the model again.",
            )


def _binding(
    bundle: Bundle,
    opened: ScoreInputs,
    lists: Sequence[str],
    settings: ScoreSettings,
    logs: LogSettings,
    run_date: date,
    time_zone: str,
    users: str | os.PathLike[str] | None,
) -> ResumeKey:
    inputs = {file.path: file.stamp for file in opened.files}
    inputs |= {path: digest_of(path) for path in lists}
    return ResumeKey(
        model_version=bundle.model_version,
        bundle=dict(bundle.description.files),
        inputs=inputs,
        settings={
            # Neither the size of a batch nor who takes it changes a row.
            **settings.model_dump(mode="json", exclude={"batch_size", "devices"}),
            "logs": logs.model_dump(mode="json"),
            "users": None if users is None else os.fspath(users),
            "run_date": run_date.isoformat(),
            "time_zone": time_zone,
        },
    )
