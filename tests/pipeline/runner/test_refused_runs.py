"""What is refused before it begins leaves no report and no row in `runs`; what fails later does."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.bundles.registry import CHAMPION, RegisteredModel, register_champion
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.config.settings import Settings
from pipeline.errors import BundleError, BusyError, ConfigError, FearecError, InputError
from pipeline.runner.nightly import nightly
from pipeline.storage.locks import exclusive_lock
from tests.helpers.ingest_cases import NOON, rows_of, settings_in, write_log
from tests.helpers.report_cases import ReportCase
from tests.helpers.stages import locations

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)

pytestmark = pytest.mark.usefixtures("without_charts")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A warehouse in which a night was run and published."""
    settings = settings_in(tmp_path)
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    night = ReportCase(settings)
    night.run(DAY, "first", model_version="v")
    night.publish(DAY, {1: [("x", 1.0)]})
    night.interact([(1, "x", NOON)])
    model = RegisteredModel(run_date=DAY, model_version="v", path="v", decision="first")
    register_champion(locations(settings, DAY), model)
    return settings


def left_by(settings: Settings) -> tuple[int, list[str]]:
    """The number of rows in `runs`, and the pages of reports."""
    reports = Path(settings.warehouse) / "reports"
    pages = sorted(str(path.relative_to(reports)) for path in reports.rglob("*.html"))
    return len(rows_of(settings, "runs")), pages


@contextmanager
def at_work(settings: Settings) -> Iterator[Settings]:
    run = locations(settings, NEXT)
    with exclusive_lock(run.lock, "", run.folder):
        yield settings


@contextmanager
def work_in_the_logs(settings: Settings) -> Iterator[Settings]:
    yield settings.model_copy(update={"work_dir": Path(settings.logs.path) / "work"})


@contextmanager
def another_layout(settings: Settings) -> Iterator[Settings]:
    yield settings.model_copy(update={"score": ScoreSettings(layout="list")})


@contextmanager
def lost_champion(settings: Settings) -> Iterator[Settings]:
    (Path(settings.warehouse) / "models" / CHAMPION).unlink()
    yield settings


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        (at_work, BusyError, "another run works on this run date"),
        (work_in_the_logs, ConfigError, "work_dir: it lies in"),
        (another_layout, ConfigError, "the table has the other layout"),
        (lost_champion, BundleError, "the list of published models is gone"),
    ],
)
def test_a_run_that_is_refused_before_it_begins_leaves_no_report_and_no_row(
    refused: Callable[[Settings], AbstractContextManager[Settings]],
    error: type[FearecError],
    message: str,
    settings: Settings,
) -> None:
    before = left_by(settings)
    assert before == (1, [])
    with refused(settings) as changed, pytest.raises(error, match=message):
        nightly(changed, NEXT)
    assert left_by(settings) == before


def test_a_run_date_in_the_future_leaves_no_report_and_no_row(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="the run date is in the future"):
        nightly(settings, settings.today() + timedelta(days=2))
    assert left_by(settings) == (1, [])


def without_logs(settings: Settings) -> Settings:
    return settings.model_copy(update={"logs": LogSettings(path=f"{settings.warehouse}-nowhere")})


def test_a_run_that_fails_after_it_began_leaves_a_report_and_a_row(settings: Settings) -> None:
    with pytest.raises(InputError, match="nowhere"):
        nightly(without_logs(settings), NEXT)
    assert left_by(settings) == (2, [f"{NEXT}/report.html", "index.html"])
    failed = max(rows_of(settings, "runs"), key=lambda row: row["finished_at"])
    assert (failed["run_date"], failed["decision"]) == (NEXT, "failed")


def test_a_first_run_without_logs_leaves_no_warehouse(tmp_path: Path) -> None:
    settings = without_logs(settings_in(tmp_path))
    with pytest.raises(InputError, match="nowhere"):
        nightly(settings, NEXT)
    assert not Path(settings.warehouse).exists()
