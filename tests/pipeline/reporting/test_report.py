"""Where reports are written, and that no failure of a report is one of its run."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

import pipeline.reporting.content
import pipeline.reporting.page
from pipeline.errors import InputError
from pipeline.reporting.report import (
    index_of_run,
    newest_run_date,
    page_of_run,
    remove_reports,
    report_dates,
    write_index,
    write_report,
)
from tests.helpers.object_store import new_bucket, s3_server, skip_without_server
from tests.helpers.report_cases import DAYS, LISTS, case_in, write_nights


@pytest.mark.usefixtures("without_charts")
def test_a_report_and_the_index_are_files_of_the_warehouse(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    write_nights(case)
    assert newest_run_date(case.settings) == DAYS[2]
    written = write_report(case.settings, DAYS[2])
    reports = tmp_path / "warehouse/reports"
    assert (written.page, written.index) == (
        f"{reports}/{DAYS[2]}/report.html", f"{reports}/index.html"
    )  # fmt: skip
    assert report_dates(case.warehouse) == {DAYS[2]}
    index = Path(written.index).read_text()
    assert f'href="{DAYS[2]}/report.html"' in index
    assert f'href="{DAYS[1]}/report.html"' not in index
    assert "Night before" not in Path(written.page).read_text()  # it has no page
    (reports / str(DAYS[1])).mkdir()
    write_report(case.settings, DAYS[2])
    assert f"../{DAYS[1]}/report.html" in Path(written.page).read_text()


def test_the_same_run_has_the_same_page(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    case.run(DAYS[0])
    case.run(DAYS[1])
    pages = [Path(write_report(case.settings, DAYS[1]).page).read_bytes() for _ in range(2)]
    assert pages[0].count(b"<svg") == pages[1].count(b"<svg")
    drawn = [page.partition(b'id="costs"')[0] for page in pages]  # the disk use is another
    assert drawn[0] == drawn[1]


def test_without_a_run_there_is_no_report(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    with pytest.raises(InputError, match="no run is recorded"):
        newest_run_date(case.settings)
    with pytest.raises(InputError, match="no run of this date"):
        write_report(case.settings, DAYS[0])
    assert report_dates(case.warehouse) == set()


@pytest.mark.usefixtures("without_charts")
def test_a_report_that_fails_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_in(tmp_path)
    case.run(DAYS[0])

    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.reporting.content, "disk_uses", fail)
        patch.setattr(pipeline.reporting.page, "index_page", fail)
        assert page_of_run(case.settings, DAYS[0]) is None
        assert index_of_run(case.settings) is None
    assert f"no page of {DAYS[0]}: by zero" in caplog.text
    assert "no index of the reports: by zero" in caplog.text
    assert not (tmp_path / "warehouse/reports").exists()
    caplog.set_level(logging.INFO, logger="pipeline.reporting.report")
    page = page_of_run(case.settings, DAYS[0])
    assert page is not None
    assert f"report: {page}" in caplog.text
    assert index_of_run(case.settings) == str(Path(page).parents[1] / "index.html")


@pytest.mark.usefixtures("without_charts")
def test_a_report_of_lists_by_user(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    case.run(DAYS[2])
    case.interact([(0, "item-1", datetime(2026, 6, 29, tzinfo=UTC))])
    for day in DAYS[1:3]:
        case.publish(day, LISTS, layout="list")
    page = Path(write_report(case.settings, DAYS[2]).page).read_text()
    assert "9 different items for 12 users" in page
    assert "<code>item-3</code>" in page


@pytest.mark.usefixtures("without_charts")
def test_a_warehouse_in_an_object_store_has_reports(tmp_path: Path) -> None:
    skip_without_server()
    with s3_server() as endpoint:
        root = f"{new_bucket(endpoint, 'reports')}/warehouse"
        case = case_in(tmp_path, warehouse=root)
        write_nights(case)
        written = write_report(case.settings, DAYS[2])
        assert written.page == f"{root}/reports/{DAYS[2]}/report.html"
        assert report_dates(case.warehouse) == {DAYS[2]}
        assert b"new champion" in case.warehouse.reports(DAYS[2]).read("report.html")
        assert str(DAYS[0]).encode() in case.warehouse.reports().read("index.html")
        remove_reports(case.warehouse, DAYS[2:3])
        assert report_dates(case.warehouse) == set()
        write_index(case.warehouse)
        assert b"report.html" not in case.warehouse.reports().read("index.html")
