"""What a report shows: gathered from the table `runs`, the run's records and the tables."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv

from pipeline.bundles.bundle import Bundle
from pipeline.config.settings import Settings
from pipeline.dates import run_end
from pipeline.errors import FearecError, InputError
from pipeline.logs.items_table import item_titles
from pipeline.reporting.lists import ListSummary, list_summaries, newest_dates
from pipeline.reporting.quarantine import BadRows, bad_rows
from pipeline.reporting.spectrum import LayerSpectrum, layer_spectra
from pipeline.results import Evaluated, PairedDifference
from pipeline.runner.cache import RunResults, read_record
from pipeline.runner.stages import STAGES, Evaluate, Export, Gate, Prepare, Train
from pipeline.runner.status import disk_uses
from pipeline.schema import RUN_DATE
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.lookup import (
    Event,
    Id,
    Recommended,
    first_users,
    histories_of,
    recommended_to,
)
from pipeline.warehouse.runs import current_run, last_known, runs_before

LAST_RUNS = 28
_USERS, _EVENTS = 4, 10


@dataclass(frozen=True)
class ShownUser:
    """A user of the report: the last events, and the lists of two run dates.

    Attributes:
        user_id: As in the logs.
        history: The last events, newest first.
        before: The earlier list.
        now: The newest list.
        since: The last instant that the run of the earlier list knew.
    """

    user_id: Id
    history: Sequence[Event]
    before: Recommended | None
    now: Recommended | None
    since: datetime

    @property
    def taken(self) -> list[Event]:
        """The events after the earlier list was made."""
        return [event for event in self.history if event.timestamp > self.since]


@dataclass(frozen=True)
class Content:
    """What the report of a run date shows.

    Attributes:
        row: The newest row of the run date in `runs`.
        earlier: The newest rows of the run dates before, oldest first.
        evaluated: The metrics; None of a run that measured none.
        notes: Of the gate.
        curves: Training metrics by name, by epoch.
        bad_rows: Of quarantine, most frequent reason first.
        published: The two newest published run dates up to this one, newest first.
        lists: Of these.
        spectra: Of the run's own model, per layer.
        users: Some users.
        titles: Of the items that are shown, by item id; None without an items table.
        disk: Bytes by table and folder.
        missing: What could not be read, a line each.
    """

    row: Mapping[str, Any]
    earlier: Sequence[Mapping[str, Any]]
    evaluated: Evaluated | None
    notes: Sequence[str]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    bad_rows: Sequence[BadRows]
    published: Sequence[date]
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
    missing: list[str] = []
    results = _results(row, locations, missing)
    gated, trained = results.get(Gate), results.get(Train)
    published = newest_dates(warehouse, run_date, 2)
    lists = list_summaries(warehouse, published, locations.resources)
    earlier = runs_before(warehouse, run_date, LAST_RUNS)
    users = _users(settings, locations, published, earlier, missing)
    return Content(
        row=row,
        earlier=earlier,
        evaluated=_evaluated(row, results),
        notes=gated.result.notes if gated else (),
        curves=_curves(trained.result.folder, missing) if trained else {},
        bad_rows=bad_rows(warehouse, run_date, locations.resources),
        published=published,
        lists=lists,
        spectra=_spectra(results, missing),
        users=users,
        titles=_titles(settings, users, lists, missing),
        disk=disk_uses(settings),
        missing=missing,
    )


def _results(row: Mapping[str, Any], locations: RunLocations, missing: list[str]) -> RunResults:
    """The records of the stages that the run had, as far as they are still there."""
    results, had = RunResults(), dict(row["stage_seconds"] or ())
    for stage in STAGES:
        record = read_record(locations.record(stage.name), stage.result_type)
        if record and stage.name in had:
            results = results.with_record(record)
    gone = [name for name in had if name not in {each.stage for each in results.records}]
    if gone:
        missing.append(
            "The work folder no longer has all that these stages recorded, so some of it is left "
            f"out: {', '.join(gone)}."
        )
    return results


def _evaluated(row: Mapping[str, Any], results: RunResults) -> Evaluated | None:
    """The recorded metrics, or what `runs` has of them."""
    metrics, recorded = dict(row["metrics"] or ()), results.get(Evaluate)
    if not metrics:
        return None
    if recorded and recorded.result.model == metrics:
        return recorded.result
    low, high = dict(row["metrics_low"] or ()), dict(row["metrics_high"] or ())
    ends = [dict(row[f"difference{end}"] or ()) for end in ("", "_low", "_high")]
    return Evaluated(
        row["protocol"] or "",
        n_users=0,
        n_served=0,
        model=metrics,
        popularity=dict(row["popularity_metrics"] or ()),
        co_occurrence=dict(row["co_occurrence_metrics"] or ()),
        intervals={"model": {name: (low[name], high[name]) for name in low}},
        champion=dict(row["champion_metrics"] or ()),
        differences={
            name: PairedDifference(*(each[name] for each in ends)) for name in ends[0]
        },
    )  # fmt: skip


def _curves(folder: Path, missing: list[str]) -> dict[str, list[tuple[float, float]]]:
    """The columns of a training's logs, by epoch; of a resumed one each attempt has one."""
    curves: dict[str, dict[float, float]] = {}
    logs = (folder / "held_out/logs").glob("version_*/metrics.csv")
    for log in sorted(logs, key=lambda log: (len(log.parent.name), log.parent.name)):
        with suppress(pa.ArrowInvalid):  # cut off by a kill
            for row in csv.read_csv(log).to_pylist():
                epoch = row.pop("epoch") + 1
                for name, value in row.items():
                    if name != "step" and value is not None:
                        curves.setdefault(name, {})[epoch] = value
    first = min((epoch for points in curves.values() for epoch in points), default=None)
    if first is None:
        missing.append("The training's curves are left out: it has no log of its epochs as CSV.")
    elif first > 1:
        missing.append(f"The training's curves begin with epoch {first}: the log before is gone.")
    return {name: sorted(points.items()) for name, points in curves.items()}


def _spectra(results: RunResults, missing: list[str]) -> list[LayerSpectrum]:
    exported, prepared = results.get(Export), results.get(Prepare)
    if not (exported and prepared):
        return []
    try:
        return layer_spectra(Bundle.load(exported.result.bundle), prepared.result)
    except (FearecError, OSError) as error:
        missing.append(f"The frequency response is left out: {error}")
        return []


def _users(
    settings: Settings,
    locations: RunLocations,
    published: Sequence[date],
    earlier: Sequence[Mapping[str, Any]],
    missing: list[str],
) -> list[ShownUser]:
    if not published:
        return []
    warehouse = locations.warehouse
    chosen = first_users(warehouse, published[0], _USERS)
    by_day = [
        {each.user_id: each for each in recommended_to(warehouse, chosen, day)} for day in published
    ]
    now, before = by_day if len(by_day) == 2 else (by_day[0], {})
    until = run_end(locations.run_date, settings.time_zone)
    histories: Sequence[Sequence[Event]] = [()] * len(chosen)
    try:
        histories = histories_of(warehouse, chosen, _EVENTS, until)
    except (FearecError, OSError) as error:
        missing.append(f"The histories of the users are left out: {error}")
    since = last_known(earlier, published[-1], settings.time_zone)
    return [
        ShownUser(user, history, before.get(user), now.get(user), since)
        for user, history in zip(chosen, histories, strict=True)
    ]


def _titles(
    settings: Settings,
    users: Sequence[ShownUser],
    lists: Sequence[ListSummary],
    missing: list[str],
) -> Mapping[Id, str] | None:
    if settings.items.path is None:
        return None
    shown = [event.item_id for user in users for event in user.history]
    shown += [item for each in lists for item, _ in each.top]
    for user in users:
        for recommended in (user.before, user.now):
            shown += [item for item, _ in recommended.items] if recommended else []
    try:
        return item_titles(settings.items.path, shown)
    except FearecError as error:
        missing.append(f"Titles are left out: {error}")
        return None
