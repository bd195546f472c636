"""What `fearec status` says of runs."""

from datetime import UTC, date, datetime
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.errors import StorageError
from pipeline.results import Gated
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.run_log import record_failure
from pipeline.runner.status import status
from tests.helpers.stages import locations

DAY = date(2026, 7, 1)


def test_a_run_that_failed_after_the_gate_serves_no_model_and_says_why(tmp_path: Path) -> None:
    settings = Settings(warehouse=f"{tmp_path}/warehouse", work_dir=tmp_path / "work")
    gated = Gated("held", ("NDCG@10 .1 is below the champion's",), "old", tmp_path, "new", "old")
    results = RunResults(StageRecord("gate", "key", "key", 1.0, gated))
    error = StorageError("the disk is full", "warehouse")
    record_failure(locations(settings, DAY), datetime.now(UTC), results, error)
    (run,) = status(settings, 9).runs
    assert (run.decision, run.model_version) == ("failed", None)
    assert run.reasons == ("warehouse: the disk is full", *gated.reasons)
