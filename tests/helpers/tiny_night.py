"""Logs and settings small enough for a whole run in a test, and a Prefect server of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

USERS, ITEMS, EVENTS = 40, 15, 8
MODEL = """
[model]
hidden_size = 8
inner_size = 8
n_layers = 1
MAX_ITEM_LIST_LENGTH = 6
contrast = "none"
"""


def write_logs(folder: Path) -> None:
    """Every user walks round the items; the last event of each is on June 30."""
    day = folder / "dt=2026-06-30"
    day.mkdir(parents=True)
    user, step = np.divmod(np.arange(USERS * EVENTS), EVENTS)
    end = datetime(2026, 6, 30, 12, tzinfo=UTC)
    times = [end - timedelta(hours=int(EVENTS - s)) for s in step]
    items = [f"item-{(u * 3 + s) % ITEMS:02d}" for u, s in zip(user, step, strict=True)]
    pq.write_table(
        pa.table({"user_id": user, "item_id": items, "timestamp": times}), day / "a.parquet"
    )


def write_settings(folder: Path) -> Path:
    """A settings file of logs, warehouse and work folder in `folder`."""
    config = folder / "fearec.toml"
    config.write_text(
        f"""
        warehouse = "{folder}/warehouse"
        work_dir = "{folder}/work"
        [logs]
        path = "{folder}/logs"
        {MODEL}
        [train]
        epochs = 1
        accelerator = "cpu"
        [evaluate]
        topk = [5, 10]
        [export]
        max_near_ties = 1.0
        [score]
        top_k = 4
        provider = "cpu"
        """
    )
    return config


@contextmanager
def prefect_server(home: Path) -> Iterator[None]:
    """A temporary Prefect server, for the flows of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=240):
            yield


def read_flow_run(state: Any) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def log_of(state: Any) -> str:
    """The messages in a flow run's log, a line each."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return "\n".join(line.message for line in client.read_logs(run))


def task_names(state: Any) -> list[str]:
    """The task runs of a flow run, in the order of their ends."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import TaskRunSort

    run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=run, sort=TaskRunSort.END_TIME_DESC)
    return [task.name for task in reversed(tasks)]
