"""An operator's machine: a copy of the repository, a Prefect server, a work pool and a worker."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx

from tests.helpers.house import repository_files

ROOT = Path(__file__).parents[2]
Found = TypeVar("Found")


@dataclass
class Operator:
    """Runs commands and looks at the server.

    Attributes:
        folder: The copy of the repository.
        home: PREFECT_HOME, fresh.
        port: Of the server.
    """

    folder: Path
    home: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        return kept | {
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_API_URL": self.url,
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self.settings,
        }

    def run(self, *command: str, ends_with: int = 0) -> str:
        """Run a command to its end, without anybody to answer questions; returns its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == ends_with, done.stdout
        return done.stdout

    def start(self, log: str, *command: str) -> "subprocess.Popen[str]":
        """Start a command whose output goes to a file beside the copy."""
        with (self.folder.parent / log).open("a") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def start_server(self) -> None:
        self.start("server.log", "prefect", "server", "start", "--port", str(self.port))

        def healthy() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health").is_success
            return False

        self.wait_for(healthy, 180)

    def start_worker(self) -> "subprocess.Popen[str]":
        return self.start("worker.log", "prefect", "worker", "start", "--pool", "default")

    def log(self, name: str) -> str:
        return (self.folder.parent / name).read_text()

    def wait_for(self, found: Callable[[], Found | None], seconds: float) -> Found:
        """What `found` returns, once that is true."""
        deadline = time.monotonic() + seconds
        while not (result := found()):
            assert time.monotonic() < deadline, "".join(
                path.read_text()[-5000:] for path in self.folder.parent.glob("*.log")
            )
            time.sleep(0.5)
        return result

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        from prefect.client.orchestration import get_client
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_CLIENT_RETRY_EXTRA_CODES,
            temporary_settings,
        )

        # 500 is what a server on a busy machine answers while its SQLite is locked.
        settings = {PREFECT_API_URL: self.url, PREFECT_CLIENT_RETRY_EXTRA_CODES: {500}}
        with temporary_settings(settings), get_client(sync_client=True) as api:
            yield api

    def schedule(self, deployment: str, first: date, last: date) -> list[UUID]:
        """Create the flow runs that a deployment's schedule has on some days, one by one.

        The server's own way, by the batch, is for days ahead: of runs that it makes and that are
        due at once its automations see nothing for a quarter of an hour.

        Returns:
            Their ids, oldest first.
        """
        from prefect.server.schemas.schedules import CronSchedule
        from prefect.states import Scheduled

        start = datetime.combine(first, datetime.min.time(), UTC)
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            (given,) = found.schedules
            assert given.active
            cron = CronSchedule(cron=given.schedule.cron, timezone=given.schedule.timezone)
            due = asyncio.run(
                cron.get_dates(start=start, end=start + timedelta(days=(last - first).days + 1))
            )
            return [
                client.create_flow_run_from_deployment(
                    found.id, state=Scheduled(scheduled_time=each)
                ).id
                for each in due
            ]

    def flow_run(self, run: UUID) -> Any:
        with self.client() as client:
            return client.read_flow_run(run)

    def ended(self, run: UUID, seconds: float = 600) -> Any:
        """A flow run, once it has ended."""

        def final() -> Any:
            found = self.flow_run(run)
            return found if found.state.is_final() else None

        return self.wait_for(final, seconds)

    def log_of(self, run: UUID) -> str:
        """The messages in a flow run's log, a line each."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        wanted, lines = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), []
        with self.client() as client:
            while page := client.read_logs(wanted, limit=200, offset=len(lines)):
                lines += page
        return "\n".join(line.message for line in lines)

    def logged(self, run: UUID, text: str) -> str:
        """A flow run's log, once some text is in it: its last lines come after its end."""

        def found() -> str | None:
            log = self.log_of(run)
            return log if text in log else None

        return self.wait_for(found, 60)

    def artifact(self, run: UUID, key: str) -> Any:
        """What an artifact of a flow run says; None where it has none of that key."""
        from prefect.client.schemas.filters import (
            ArtifactFilter,
            ArtifactFilterFlowRunId,
            ArtifactFilterKey,
        )

        wanted = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[key])
        )
        with self.client() as client:
            found = client.read_artifacts(artifact_filter=wanted)
        return found[-1].data if found else None

    def kill_machine(self, worker: "subprocess.Popen[str]", run: UUID) -> None:
        """SIGKILL to the worker and to the process of a flow run, as a machine's death is."""
        process = int(self.flow_run(run).infrastructure_pid.split(":")[-1])
        os.kill(worker.pid, signal.SIGKILL)
        os.kill(process, signal.SIGKILL)
        worker.wait(30)

    def end(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def copied_repository(target: Path) -> Path:
    """A copy of the repository as a clone has it."""
    for name in repository_files(ROOT):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    return target
