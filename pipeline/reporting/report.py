"""The report of a run date, and the index over all, as files in the warehouse."""

import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.errors import FearecError, InputError
from pipeline.reporting.content import gather
from pipeline.reporting.page import index_page, night_page
from pipeline.runner.failures import storage_failures
from pipeline.schema import RUN_DATE
from pipeline.storage.folders import Folder, LocalFolder
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.runs import runs_before

PAGE, INDEX = "report.html", "index.html"
_EVERY = 100_000  # run dates

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """Where a report was written.

    Attributes:
        page: Path or URI of the run date's page.
        index: Path or URI of the page over all run dates.
    """

    page: str
    index: str


def write_report(settings: Settings, run_date: date) -> Report:
    """Write the page of a run date and the index anew, from what is recorded.

    Args:
        settings: Of the run.
        run_date: Which must have a row in `runs`.

    Raises:
        InputError: the run date has none.
        StorageError: a table cannot be read, or a page not be written.
    """
    warehouse = Warehouse(settings.warehouse)
    locations = RunLocations(warehouse, settings.work_dir, run_date)
    with storage_failures(settings):
        folder, index = warehouse.reports(run_date), warehouse.reports()
        _write(folder, PAGE, night_page(gather(settings, locations)))
        rows = runs_before(warehouse, date.max, _EVERY)
        names = index.names()
        pages = {row[RUN_DATE] for row in rows if str(row[RUN_DATE]) in names}
        _write(index, INDEX, index_page(rows, pages))
    return Report(folder.name_of(PAGE), index.name_of(INDEX))


def newest_run_date(settings: Settings) -> date:
    """The newest run date that has a row in `runs`.

    Raises:
        InputError: there is none.
        StorageError: the table cannot be read.
    """
    with storage_failures(settings):
        rows = runs_before(Warehouse(settings.warehouse), date.max, 1)
    if not rows:
        raise InputError(
            "no run is recorded", settings.warehouse, remedy="Run `fearec nightly` first."
        )
    newest: date = rows[0][RUN_DATE]
    return newest


def report_run(settings: Settings, run_date: date) -> Report | None:
    """`write_report` at the end of a run, for which a failure is only a warning."""
    try:
        return write_report(settings, run_date)
    except FearecError as error:
        logger.warning("there is no report of %s: %s", run_date, error)
        return None


def _write(folder: Folder, name: str, text: str) -> None:
    if isinstance(folder, LocalFolder):
        Path(folder.root).mkdir(parents=True, exist_ok=True)
    folder.put_text(name, text)
