"""What workers hand over to the driver: whole files in the training's folder, and log records."""

import logging
from pathlib import Path

from pipeline.training.driver_desk import DriverDesk, SentFile


def test_files_of_a_gang_that_has_been_replaced_count_for_nothing(tmp_path: Path) -> None:
    desk = DriverDesk(tmp_path / "training")
    for attempt, content in ((1, b"first"), (2, b"second"), (1, b"late")):
        assert desk(SentFile(attempt, "logs/version_0/metrics.csv", content)) == []
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file == tmp_path / "training" / "logs" / "version_0" / "metrics.csv"
    assert file.read_bytes() == b"second"


def test_log_records_are_given_out_once(tmp_path: Path) -> None:
    desk = DriverDesk(tmp_path)
    record = logging.makeLogRecord({"msg": "epoch 1 of 3"})
    assert desk(record) == []
    assert desk() == [record]
    assert desk() == []
