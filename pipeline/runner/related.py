"""`fearec related`: the related items of a run date, by its model or by its histories.

Like embeddings and audiences, they belong to no run, and none of it is recorded: each call computes
its rows again, and replaces those of its run date.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import numpy as np

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.progress import work_progress
from pipeline.related.co_occurrence import co_occurrence_neighbours
from pipeline.related.cosine import cosine_neighbours
from pipeline.related.item_vectors import item_vectors, trained_items
from pipeline.related.neighbours import Neighbours
from pipeline.related.running_top import Integers
from pipeline.results import RelatedItems
from pipeline.runner.failures import storage_failures
from pipeline.runner.prepared_runs import ServedRun, served_run
from pipeline.runner.served_rules import check_any_offered, left_out_on
from pipeline.schema import RELATED_ITEMS, related_items_schema
from pipeline.scoring.output_rows import RunColumns
from pipeline.warehouse.partitions import write_partition

COSINE, CO_OCCURRENCE = "cosine", "co-occurrence"


def write_related_items(
    settings: Settings,
    *,
    by: str,
    top_n: int,
    run_date: date | None = None,
    model_version: str | None = None,
) -> RelatedItems:
    """Replace a run date's rows of the table `related_items`.

    Args:
        settings: Whose warehouse; `resources` are used. Items that the rules of `score` leave
            out for everybody are related to none.
        by: ``cosine`` of the items' embeddings, or ``co-occurrence`` in the histories.
        top_n: Related items per item, at most.
        run_date: Default the newest that a model serves.
        model_version: Default the one that serves the run date.

    Raises:
        ConfigError: `by` or `top_n` is impossible, or rules cannot be used or leave no item.
        InputError: there is no such model, there are no histories to count in, or a file of the
            rules cannot be read.
        BusyError: another run works on the run date.
        PublishError: the table has other columns or could not be written; it is as it was.
        FearecError: the model or the histories cannot be used.
    """
    check_top_n(top_n)
    if by not in (COSINE, CO_OCCURRENCE):
        raise ConfigError("no such relation", "--by", f"{COSINE} or {CO_OCCURRENCE}", found=by)
    with storage_failures(settings):
        run = served_run(settings, run_date, model_version)
        items, ids = trained_items(run.items), run.item_ids
        columns = RunColumns(run.bundle.model_version, run.locations.run_date, datetime.now(UTC))
        n = min(top_n, len(items))
        left_out = left_out_on(run, settings)
        offered = np.intersect1d(items, np.flatnonzero(left_out.eligible) + 1)
        check_any_offered(offered, left_out, str(run.bundle.path))
        relate = _by_cosine if by == COSINE else _by_co_occurrence
        found = relate(run, items, n, offered)
        with run.held() as scratch:
            table, n_rows = write_partition(
                run.locations.warehouse,
                RELATED_ITEMS,
                related_items_schema(ids.type),
                (part.rows(ids, by, columns) for part in found),
                columns.run_date,
                columns.generated_at,
                scratch,
            )
    n_untrained = len(ids) - len(items)
    return RelatedItems(
        table,
        columns.model_version,
        columns.run_date,
        by,
        len(items),
        n_untrained,
        n_rows,
        len(items) - len(offered),
    )


def check_top_n(top_n: int) -> None:
    """Check a number of items or users to find.

    Raises:
        ConfigError: it is not positive.
    """
    if top_n < 1:
        raise ConfigError("nothing to find", "--top-n", "at least 1", found=str(top_n))


def _by_cosine(run: ServedRun, items: Integers, n: int, offered: Integers) -> Iterator[Neighbours]:
    done = 0
    with work_progress("comparing", "items") as progress:
        for part in cosine_neighbours(item_vectors(run.bundle), items, n, offered):
            yield part
            done += len(part.item_index)
            progress(done, len(items))


def _by_co_occurrence(
    run: ServedRun, items: Integers, n: int, offered: Integers
) -> Iterator[Neighbours]:
    with run.prepared() as prepared, work_progress("counting", "users") as progress:
        found = co_occurrence_neighbours(
            prepared.histories,
            items,
            run.bundle.n_items,
            n,
            prepared.scratch,
            run.locations.resources,
            lambda done: progress(done, prepared.n_users),
            offered,
        )
    return found.parts()
