"""What a report shows: gathered from the table `runs`, the run's records and the tables."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pyarrow.csv as csv
import pyarrow.dataset as ds

from pipeline.bundles.bundle import Bundle
from pipeline.config.settings import Settings
from pipeline.errors import FearecError, InputError
from pipeline.logs.items_table import item_titles
from pipeline.reporting.lists import ListSummary, list_summaries
from pipeline.reporting.spectrum import LayerSpectrum, layer_spectra
from pipeline.results import Evaluated
from pipeline.runner.cache import RunResults, read_record
from pipeline.runner.stages import STAGES, Evaluate, Export, Gate, Prepare, Train
from pipeline.runner.status import disk_uses
from pipeline.schema import ITEM_ID, QUARANTINE, RUN_DATE, TIMESTAMP, USER_ID
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.lookup import (
    Event,
    Id,
    Recommended,
    first_users,
    history_of,
    recommended_to,
)
from pipeline.warehouse.runs import current_run, runs_before
from pipeline.warehouse.tables import dataset_of, open_table

LAST_RUNS = 28
_EXAMPLES, _USERS, _EVENTS = 3, 4, 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownUser:
    """A user of the report: the last events, and the lists of both run dates."""

    user_id: Id
    history: Sequence[Event]
    before: Recommended | None
    now: Recommended | None


@dataclass(frozen=True)
class BadRows:
    """Rows of one reason in quarantine.

    Attributes:
        reason: Why they are bad.
        count: How many this run date added.
        examples: Some of them, as the log has them.
    """

    reason: str
    count: int
    examples: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Content:
    """What the report of a run date shows.

    Attributes:
        row: The newest row of the run date in `runs`.
        earlier: The newest rows of the run dates before, oldest first.
        evaluated: The metrics; None of a run that measured none.
        curves: Training metrics by name, by epoch.
        bad_rows: Of quarantine, most frequent reason first.
        lists: Of this run date and the one before.
        spectra: Of the run's own model, per layer.
        users: Some users.
        titles: Of the items they are shown with, by item id; None without an items table.
        disk: Bytes by table and folder.
        missing: What could not be read, a line each.
    """

    row: Mapping[str, Any]
    earlier: Sequence[Mapping[str, Any]]
    evaluated: Evaluated | None
    curves: Mapping[str, Sequence[tuple[float, float]]]
    bad_rows: Sequence[BadRows]
    lists: Sequence[ListSummary]
    spectra: Sequence[LayerSpectrum]
    users: Sequence[ShownUser]
    titles: Mapping[Id, str] | None
    disk: Mapping[str, int]
    missing: Sequence[str] = field(default=())

    @property
    def run_date(self) -> date:
        """The run date."""
        day: date = self.row[RUN_DATE]
        return day

    @property
    def finished_at(self) -> datetime:
        """When the run ended."""
        ended: datetime = self.row["finished_at"] or self.row["started_at"]
        return ended


def gather(settings: Settings, locations: RunLocations) -> Content:
    """Read everything that the report of a run date shows.

    Args:
        settings: Of the run.
        locations: Of the run date.

    Raises:
        InputError: `runs` has no row of the run date.
    """
    warehouse, run_date = locations.warehouse, locations.run_date
    row = current_run(warehouse, run_date)
    if row is None:
        raise InputError(
            "no run of this date is recorded",
            f"run date {run_date}",
            remedy=f"Run `fearec nightly --date {run_date}` first.",
        )
    results, missing = _results(locations), []
    evaluated, prepared = results.get(Evaluate), results.get(Prepare)
    spectra: list[LayerSpectrum] = []
    if (exported := results.get(Export)) and prepared:
        try:
            spectra = layer_spectra(Bundle.load(exported.result.bundle), prepared.result)
        except (FearecError, OSError) as error:
            missing.append(f"The frequency response is left out: {error}")
    lists = list_summaries(warehouse, run_date)
    users = _users(locations, [each.run_date for each in lists])
    return Content(
        row=row,
        earlier=runs_before(warehouse, run_date, LAST_RUNS),
        evaluated=evaluated.result if evaluated else None,
        curves=_curves(results),
        bad_rows=_bad_rows(locations),
        lists=lists,
        spectra=spectra,
        users=users,
        titles=_titles(settings, users),
        disk=disk_uses(settings),
        missing=missing,
    )


def _results(locations: RunLocations) -> RunResults:
    """The records of the run date that are there, without a look at their cache keys."""
    results = RunResults()
    for stage in STAGES:
        record = read_record(locations.record(stage.name), stage.result_type)
        if record:
            results = results.with_record(record)
    gated = results.get(Gate)
    if gated and gated.result.candidate is None:  # what is recorded there is of an earlier run
        kept = [
            each for each in results.records if each.stage not in ("train", "evaluate", "export")
        ]
        results = RunResults(*kept)
    return results


def _curves(results: RunResults) -> dict[str, list[tuple[float, float]]]:
    """The columns of the training's log, by epoch."""
    curves: dict[str, list[tuple[float, float]]] = {}
    trained = results.get(Train)
    if trained is None:
        return curves
    with suppress(FileNotFoundError):
        path = trained.result.folder / "held_out" / "logs" / "version_0" / "metrics.csv"
        rows = csv.read_csv(path).to_pylist()
        for name in rows[0] if rows else ():
            points = [(row["epoch"] + 1, row[name]) for row in rows if row[name] is not None]
            if name not in ("epoch", "step"):
                curves[name] = points
    return curves


def _bad_rows(locations: RunLocations) -> list[BadRows]:
    table = open_table(locations.warehouse.table(QUARANTINE))
    if table is None:
        return []
    mine = ds.field(RUN_DATE) == locations.run_date
    dataset = dataset_of(table)
    counts = dataset.to_table(["reason"], filter=mine)["reason"].value_counts().to_pylist()
    counts.sort(key=lambda each: -each["counts"])
    columns = [USER_ID, ITEM_ID, TIMESTAMP, "source_file", "source_row"]
    return [
        BadRows(
            each["values"],
            each["counts"],
            dataset.head(
                _EXAMPLES, columns=columns, filter=mine & (ds.field("reason") == each["values"])
            ).to_pylist(),
        )
        for each in counts
    ]


def _users(locations: RunLocations, days: Sequence[date]) -> list[ShownUser]:
    if not days:
        return []
    warehouse, now = locations.warehouse, days[0]
    chosen = first_users(warehouse, now, _USERS)
    lists = [
        {each.user_id: each for each in recommended_to(warehouse, chosen, day)} for day in days
    ]
    before = lists[1] if len(lists) > 1 else {}
    return [
        ShownUser(user, history_of(warehouse, user, _EVENTS), before.get(user), lists[0].get(user))
        for user in chosen
    ]


def _titles(settings: Settings, users: Sequence[ShownUser]) -> Mapping[Id, str] | None:
    if settings.items.path is None:
        return None
    shown = [event.item_id for user in users for event in user.history]
    for user in users:
        for recommended in (user.before, user.now):
            shown += [item for item, _ in recommended.items] if recommended else []
    return item_titles(settings.items.path, shown)
