"""Six scheduled nights as an operator has them: a Prefect server, a work pool and a worker."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from tests.helpers.operator import Operator, copied_repository, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

NIGHTLY = "nightly-retrain-and-score/nightly"
DAYS = [date(2026, 6, 25) + timedelta(days=n) for n in range(6)]
USERS = 400
HEARTBEAT = 30  # seconds; Prefect allows no less
SMALL = {"epochs": "8", "train_batch_size": "128", "learning_rate": "0.005"}


class Notified(BaseHTTPRequestHandler):
    """A webhook that keeps what it is sent in `messages` of its server."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.messages.append(self.rfile.read(length).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        pass


@dataclass
class Nights:
    """The operator, and the flow runs so far, by run date."""

    operator: Operator
    messages: list[str]
    runs: dict[date, UUID] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.operator.folder / "sample_data/fearec.toml"

    def log_file(self, day: date) -> Path:
        return self.operator.folder / f"sample_data/logs/dt={day}/part-0.parquet"

    def schedule(self, *days: date) -> None:
        """Create the flow runs of these run dates: those of the schedule on the days after."""
        after = [day + timedelta(days=1) for day in days]
        self.runs |= zip(days, self.operator.schedule(NIGHTLY, after[0], after[-1]), strict=True)

    def change(self, **values: str) -> None:
        """Change settings of `[train]` in the settings file."""
        text = self.config.read_text()
        for name, value in values.items():
            text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert f"{name} = {value}" in text
        self.config.write_text(text)

    def recorded(self, day: date) -> dict[str, Any]:
        """The newest row of a run date in `runs`."""
        rows = DeltaTable(str(self.operator.folder / "warehouse/runs")).to_pyarrow_table()
        of_day = rows.filter(pc.equal(rows["run_date"], pa.scalar(day))).to_pylist()
        return max(of_day, key=lambda row: row["finished_at"])

    def published(self, day: date) -> tuple[set[str], int, int]:
        """The model versions, users and rows of a run date's recommendations."""
        table = DeltaTable(str(self.operator.folder / "warehouse/recommendations"))
        rows = table.to_pyarrow_dataset().to_table(filter=ds.field("run_date") == day)
        return set(rows["model_version"].to_pylist()), len(rows["user_id"].unique()), len(rows)

    def check(self, day: date, decision: str, serves: str | None = None) -> dict[str, Any]:
        """Check all that a night leaves, once it has ended; returns its row in `runs`."""
        run = self.operator.ended(self.runs[day])
        name = "Held" if decision == "held" else "Completed"
        assert run.state.name == name, f"{run.state.message}\n{self.operator.log_of(run.id)}"
        assert run.name == f"night {day}: {decision}"
        assert {"fearec", decision} <= set(run.tags)
        row = self.recorded(day)
        assert row["decision"] == decision
        version = row["model_version"] if serves is None else serves
        assert self.published(day) == ({version}, USERS, USERS * 10)
        assert row["model_version"] == version
        logged = self.operator.logged(run.id, f"decision: {decision}; {version} serves")
        assert f"decision: {decision}" in self.operator.artifact(run.id, "nightly")
        assert '"publish"' in self.operator.artifact(run.id, "stages")
        assert f"warehouse/reports/{day}/" in self.operator.artifact(run.id, "report")
        assert (self.operator.folder / f"warehouse/reports/{day}/report.html").exists()
        assert "Traceback" not in logged
        return row


def make_small(folder: Path) -> None:
    """The sample with a fifth of its users, for a network that learns it in seconds."""
    for path in (folder / "sample_data/logs").rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        kept = pc.or_kleene(pc.less(table["user_id"], 1000 + USERS), pc.is_null(table["user_id"]))
        pq.write_table(table.filter(kept), path)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    root = tmp_path_factory.mktemp("operator")
    folder = copied_repository(root / "clone")
    make_small(folder)
    heartbeat = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT), "OMP_NUM_THREADS": "1"}
    operator = Operator(folder, root / "home", free_port(), heartbeat)
    webhook = ThreadingHTTPServer(("127.0.0.1", 0), Notified)
    webhook.messages = []
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    try:
        operator.start_server()
        operator.run("prefect", "work-pool", "create", "default", "--type", "process")
        operator.run("prefect", "work-pool", "set-concurrency-limit", "default", "1")
        operator.run("prefect", "--no-prompt", "deploy", "--all")
        url = f"http://127.0.0.1:{webhook.server_port}"
        made = operator.run("python", "-m", "flows.cli.main", "automations", "--notify", url)
        assert made.count("enabled") == 3
        found = Nights(operator, webhook.messages)
        found.change(**SMALL)
        yield found
    finally:
        operator.end()
        webhook.shutdown()


def test_six_nights(nights: Nights) -> None:
    operator = nights.operator

    # Two nights were missed while no worker was up: each is made up for, the older first.
    nights.schedule(DAYS[0], DAYS[1])
    worker = operator.start_worker()
    first = nights.check(DAYS[0], "first")
    second = nights.check(DAYS[1], "promoted")
    assert first["finished_at"] <= second["started_at"]
    assert second["parent"] == first["model_version"]
    champion = second["model_version"]

    # The items of a day are shuffled: held, the champion serves.
    log = nights.log_file(DAYS[2])
    good = log.read_bytes()
    table = pq.ParquetFile(log).read()
    items = table["item_id"].take(np.random.default_rng(7).permutation(len(table)))
    pq.write_table(table.set_column(table.schema.get_field_index("item_id"), "item_id", items), log)
    nights.schedule(DAYS[2])
    held = nights.check(DAYS[2], "held", champion)
    assert held["reasons"]
    log.write_bytes(good)

    # Training diverges: held, the champion serves.
    nights.change(learning_rate="1e30")
    nights.schedule(DAYS[3])
    held = nights.check(DAYS[3], "held", champion)
    assert "diverged" in held["reasons"][0]
    nights.change(learning_rate=SMALL["learning_rate"])

    # The machine dies in the middle of training. The run is found, and goes on where it was.
    nights.change(epochs="40")
    nights.schedule(DAYS[4])
    run = nights.runs[DAYS[4]]
    training = operator.folder / f"work/run_date={DAYS[4]}/train"
    operator.wait_for(lambda: [*training.rglob("last.ckpt")], 300)
    operator.kill_machine(worker, run)
    lost = operator.ended(run, seconds=5 * HEARTBEAT)
    assert lost.state.is_crashed()
    assert f"No heartbeat for {3 * HEARTBEAT} seconds" in lost.state.message
    assert not nights.published(DAYS[4])[0]
    operator.run("prefect", "flow-run", "retry", str(run))
    worker = operator.start_worker()
    resumed = nights.check(DAYS[4], "promoted")
    assert resumed["parent"] == champion  # of the nights after it none was held in its place
    after = operator.log_of(run).split("prepare: done before")[1]
    epochs = re.findall(r"epoch (\d+) of 40", after)
    assert int(epochs[0]) > 1

    # One night is missed and late: it gets its own date.
    worker.terminate()
    worker.wait(60)
    nights.change(epochs=SMALL["epochs"])
    nights.schedule(DAYS[5])
    operator.start_worker()
    late = nights.check(DAYS[5], "promoted")
    assert late["parent"] == resumed["model_version"]

    # Whoever is on call has heard of it.
    told = operator.wait_for(lambda: nights.messages if len(nights.messages) >= 3 else None, 60)
    assert len(told) == 3
    for part in (f"night {DAYS[2]}: held", f"night {DAYS[3]}: held", f"night {DAYS[4]}, Crashed"):
        assert sum(part in message for message in told) == 1, told

    # No worker's output has a traceback of ours or a report of leaks, and tables are whole.
    output = operator.log("worker.log")
    assert "nanobind" not in output
    assert "Traceback" not in output
    for table_name in ("interactions", "quarantine", "recommendations", "runs", "vocabulary"):
        DeltaTable(str(operator.folder / "warehouse" / table_name)).to_pyarrow_table().validate()
