"""The report of a run date, and the index over all, as files in the warehouse."""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.errors import InputError, one_line
from pipeline.runner.failures import storage_failures
from pipeline.schema import RUN_DATE
from pipeline.storage.folders import Folder, LocalFolder
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.runs import all_runs, runs_before

PAGE, INDEX = "report.html", "index.html"

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
    page = _write_page(settings, run_date)
    with storage_failures(settings):
        return Report(page, write_index(Warehouse(settings.warehouse)))


def _write_page(settings: Settings, run_date: date) -> str:
    # Imported here, as PyTorch, Matplotlib and Jinja2 come with them.
    from pipeline.reporting.content import gather
    from pipeline.reporting.page import night_page

    locations = RunLocations.of(settings, run_date)
    with storage_failures(settings):
        folder = locations.warehouse.reports(run_date)
        page = night_page(gather(settings, locations), report_dates(locations.warehouse))
        _write(folder, PAGE, page)
    return folder.name_of(PAGE)


def write_index(warehouse: Warehouse) -> str:
    """Write the page over all run dates anew.

    Returns:
        Its path or URI.
    """
    from pipeline.reporting.page import INDEX_COLUMNS, index_page

    folder, rows = warehouse.reports(), all_runs(warehouse, INDEX_COLUMNS)
    _write(folder, INDEX, index_page(rows, report_dates(warehouse)))
    return folder.name_of(INDEX)


def report_dates(warehouse: Warehouse) -> set[date]:
    """The run dates that have a page."""
    found = set()
    for name in warehouse.reports().names():
        with suppress(ValueError):
            found.add(date.fromisoformat(name))
    return found


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


def remove_reports(warehouse: Warehouse, run_dates: Iterable[date]) -> None:
    """Remove the pages of some run dates; the index links to them until `write_index`."""
    for run_date in run_dates:
        folder = warehouse.reports(run_date)
        folder.filesystem.delete_dir(folder.root)


def page_of_run(settings: Settings, run_date: date) -> str | None:
    """Write the page at the end of a run, which no failure of a report makes fail.

    Returns:
        Its path or URI; None where it failed.
    """
    page = _unless_it_fails(f"page of {run_date}", partial(_write_page, settings, run_date))
    if page:
        logger.info("report: %s", page)
    return page


def index_of_run(settings: Settings) -> str | None:
    """`write_index` at the end of a run, like `page_of_run`."""
    return _unless_it_fails(
        "index of the reports", partial(write_index, Warehouse(settings.warehouse))
    )


def _unless_it_fails(what: str, write: Callable[[], str]) -> str | None:
    try:
        return write()
    except Exception as error:  # the run is recorded and published, whatever its report needs
        logger.warning("there is no %s: %s", what, one_line(error))
        return None


def _write(folder: Folder, name: str, text: str) -> None:
    if isinstance(folder, LocalFolder):
        Path(folder.root).mkdir(parents=True, exist_ok=True)
    folder.put_text(name, text)
