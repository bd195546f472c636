"""`fearec audience`: the users to whom given items suit best."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from pipeline.config.settings import Settings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError, InputError
from pipeline.logs.id_lists import as_known, read_ids
from pipeline.progress import work_progress
from pipeline.related.audience import Audience, find_audience
from pipeline.related.item_vectors import item_vectors, trained_items
from pipeline.related.running_top import Integers
from pipeline.results import AudienceFound
from pipeline.runner.failures import storage_failures
from pipeline.runner.prepared_runs import PreparedRun, ServedRun, served_run
from pipeline.runner.related import check_top_n
from pipeline.runner.run_checks import check_outside_of
from pipeline.runner.served_rules import check_any_offered, left_out_on
from pipeline.schema import ITEM_ID, USER_ID, audience_schema
from pipeline.scoring.user_encoder import EmbeddedUsers, UserEncoder
from pipeline.storage.folders import open_folder, storage_errors
from pipeline.storage.prepared_folder import read_sequences
from pipeline.storage.replaced_inputs import check_replaces_no_input


def find_users(
    settings: Settings,
    items: str,
    *,
    top_n: int,
    output: str | None = None,
    run_date: date | None = None,
    model_version: str | None = None,
) -> AudienceFound:
    """Find the users with the highest score for each of some items.

    Args:
        settings: Whose warehouse; `score.exclude_seen` decides whether users who have seen an item
            are left out of its audience, and the rules of `score` which items have none;
            `score.provider`, `batch_size` and `threads` are used.
        items: A file of item ids.
        top_n: Users per item, at most.
        output: The Parquet file to write or replace, local or in an object store.
        run_date: Whose histories count; default the newest that a model serves.
        model_version: Default the one that serves the run date.

    Raises:
        ConfigError: `top_n` is impossible, `output` is a folder or lies where the command or a run
            reads, or rules cannot be used or leave out every listed item.
        InputError: the file cannot be read or holds no item of the model, there is no such model,
            or there are no histories.
        SchemaError: the file's ids are of another kind than the model's.
        BusyError: another run works on the run date, or writes to the folder of `output`.
        FearecError: the model or the histories cannot be used, or `output` cannot be written.
    """
    check_top_n(top_n)
    score = settings.score
    with storage_failures(settings), _written(output, items, settings) as target:
        run = served_run(settings, run_date, model_version)
        listed, n_unknown, n_untrained = _listed(run, items)
        rules = left_out_on(run, settings)
        left_out = {
            rule: int(np.count_nonzero(mask[listed - 1])) for rule, mask in rules.by_rule.items()
        }
        listed = listed[rules.eligible[listed - 1]]
        check_any_offered(listed, rules, items)
        vectors = item_vectors(run.bundle)
        encoder = UserEncoder.load(run.bundle, vectors.shape[1], score)
        seen = score.seen_on(RunDay(run.locations.run_date, settings.time_zone))
        n_known = 0
        with run.prepared(seen) as prepared, work_progress("scoring", "users") as progress:

            def parts() -> Iterator[EmbeddedUsers]:
                nonlocal n_known
                for part in encoder.parts(prepared.histories):
                    n_known += len(part.position)
                    yield part

            found = find_audience(
                parts(),
                vectors,
                listed,
                min(top_n, prepared.n_users),
                exclude_seen=bool(score.exclude_seen),
                progress=lambda done: progress(done, prepared.n_users),
            )
            rows = _rows(found, run.item_ids.take(pa.array(listed - 1)), prepared)
        if target is not None:
            with storage_errors(str(output)):
                pq.write_table(rows, target)
    return AudienceFound(
        output,
        run.bundle.model_version,
        run.locations.run_date,
        len(listed),
        n_unknown,
        n_untrained,
        n_known,
        prepared.n_users - n_known,
        len(rows),
        () if output else tuple(rows.to_pylist()),
        {rule: count for rule, count in left_out.items() if count},
    )


@contextmanager
def _written(output: str | None, items: str, settings: Settings) -> Iterator[Path | None]:
    """A temporary file that becomes the output, where one is wanted, at the end of the block.

    Raises:
        ConfigError: the output is a folder or an input, or in the logs, the warehouse or the work
            folder.
        BusyError: another process writes to the output's folder.
    """
    if output is None:
        yield None
        return
    parent, name = os.path.split(output)
    folder = open_folder(parent or ".")
    if not name or folder.filesystem.get_file_info(folder.path(name)).type == FileType.Directory:
        raise ConfigError("the output must be a file", "--output", found=output)
    score = settings.score
    files = [items, score.allow, score.deny, settings.items.path, settings.users.path]
    files += [segment.file for segment in score.segment]
    check_replaces_no_input(output, "--output", [*files, settings.warehouse, settings.work_dir])
    for read in (settings.logs.path, *score.user_lists):
        check_outside_of(read, output, "--output")
    with folder.scratch() as scratch:
        yield scratch / name
        with storage_errors(output):
            folder.put(scratch / name, name)


def _listed(run: ServedRun, path: str) -> tuple[Integers, int, int]:
    """The indices of the listed items, in their order, and how many are unknown or untrained."""
    ids = run.item_ids
    listed = read_ids(path, ITEM_ID, ids.type, f"model {run.bundle.model_version}")
    known = as_known(listed, ids)
    index = pc.index_in(known.drop_null().unique(), value_set=ids).to_numpy() + 1
    trained = index[np.isin(index, trained_items(run.items))]
    if not len(trained):
        raise InputError(
            "none of the listed items is one that the model was trained on",
            path,
            found=f"{len(listed)} ids, {known.null_count} of them unknown",
            remedy="Check that the file holds ids of this model's items.",
        )
    return trained.astype(np.int64), known.null_count, len(index) - len(trained)


def _rows(found: Audience, item_ids: pa.Array, prepared: PreparedRun) -> pa.Table:
    """The rows of an audience, item by item, with columns as in `audience_schema`."""
    present = found.position >= 0
    item, rank = np.nonzero(present)
    columns = [
        item_ids.take(pa.array(item)),
        pa.array(rank.astype(np.int32) + 1),
        _user_ids(prepared.folder, found.position[present]),
        pa.array(found.score[present]),
    ]
    return pa.table(columns, schema=audience_schema(prepared.user_type, item_ids.type))


def _user_ids(folder: Path, positions: Integers) -> pa.Array:
    """The ids of the users at some positions in a prepared folder."""
    distinct, place = np.unique(positions, return_inverse=True)
    begin, chunks = 0, []
    for batch in read_sequences(folder, [USER_ID]):
        first, last = np.searchsorted(distinct, [begin, begin + len(batch)])
        chunks.append(batch[USER_ID].take(pa.array(distinct[first:last] - begin)))
        begin += len(batch)
    return pa.concat_arrays(chunks).take(pa.array(place))
