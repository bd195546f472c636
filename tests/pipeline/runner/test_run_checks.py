"""What a run is refused for before it begins."""

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline.bundles.registry import RegisteredModel, register_champion
from pipeline.config.sections import LogSettings
from pipeline.config.settings import Settings
from pipeline.dates import run_end
from pipeline.errors import BundleError, ConfigError
from pipeline.runner.nightly import nightly
from pipeline.runner.run_checks import check_registry, check_settings_of_run
from pipeline.storage.locations import RunLocations
from tests.helpers.ingest_cases import NOON, settings_in, write_log
from tests.helpers.stages import locations

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_in(tmp_path)
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    return settings


def test_a_run_date_may_be_tomorrow_but_no_later(settings: Settings) -> None:
    tomorrow = settings.today() + timedelta(days=1)
    check_settings_of_run(settings, tomorrow)
    with pytest.raises(ConfigError, match=f"in the future; expected {tomorrow} at the latest"):
        nightly(settings, tomorrow + timedelta(days=1))
    assert not Path(settings.work_dir).exists()


def test_a_day_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run date 9999-12-31: not a day .* 2 to 9998"):
        run_end(date.max, "UTC")


@pytest.mark.parametrize(
    ("logs", "work", "is_refused"),
    [
        ("logs", "logs/work", True),
        ("logs", "link/work", True),
        ("logs/**/*.parquet", "logs/work", True),
        ("logs/*.parquet", "logs/work", False),
        ("logs", "logs/.work", False),
        ("logs", "logs2", False),
    ],
)
def test_a_work_folder_in_the_logs_is_refused(
    logs: str, work: str, is_refused: bool, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    changed = settings.model_copy(
        update={"logs": LogSettings(path=f"{tmp_path}/{logs}"), "work_dir": tmp_path / work}
    )
    if not is_refused:
        check_settings_of_run(changed, DAY)
        return
    with pytest.raises(ConfigError, match=r"work_dir: it lies in .*, which would then include it"):
        nightly(changed, DAY)


def publish_rows(of_day: RunLocations) -> None:
    rows = pa.table({"user_id": ["u"], "run_date": [of_day.run_date]})
    table = of_day.warehouse.table("recommendations")
    write_deltalake(table, rows, partition_by=["run_date"], mode="append")


def test_a_lost_registry_ends_the_run_of_a_later_date(settings: Settings) -> None:
    of_day, of_next = (locations(settings, day) for day in (DAY, NEXT))
    check_registry(of_next)  # nothing was published yet
    publish_rows(of_day)
    check_registry(of_day)  # the first date again
    with pytest.raises(BundleError, match=r"champion\.json: the list of .* gone.*models promote"):
        check_registry(of_next)
    model = RegisteredModel(run_date=DAY, model_version="v", path="v", decision="first")
    register_champion(of_day, model)
    check_registry(of_next)


def test_a_lost_registry_ends_the_run_of_an_earlier_date(settings: Settings) -> None:
    of_days = [locations(settings, day) for day in (DAY, NEXT)]
    for of_day in of_days:
        publish_rows(of_day)
    before_all = locations(settings, DAY - timedelta(days=1))
    for run in (*of_days, before_all):
        with pytest.raises(BundleError, match=r"champion\.json: the list of .* gone"):
            check_registry(run)
