"""Flow runs that are cancelled while a Ray cluster works for them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.operator import Operator, copied_repository, free_port
from tests.helpers.ray_workers import ended_within, until, workers
from tests.helpers.tiny_night import write_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("default"),
]

USERS = 150_000  # whose lists take a minute in batches of one
NIGHT = ["score.batch_size=1", "evaluate.bootstrap=0", "train.train_batch_size=4096"]
SEARCH = ["train.epochs=100000", "train.stopping_step=100000", "tune.prune=false"]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory, cluster: Any) -> Iterator[Operator]:
    root = tmp_path_factory.mktemp("operator")
    made = Operator(copied_repository(root / "clone"), root / "home", free_port())
    try:
        made.start_server()
        made.run("prefect", "work-pool", "create", "default", "--type", "process")
        made.run("prefect", "--no-prompt", "deploy", "--all")
        made.start_worker()
        yield made
    finally:
        made.end()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    user, step = np.divmod(np.arange(USERS * 5), 5)
    times = np.datetime64("2026-06-30T12:00", "us") + step.astype("m8[s]")
    items = (user * 3 + step) % 40
    (tmp_path / "logs").mkdir()
    table = pa.table({"user_id": user, "item_id": items, "timestamp": pa.array(times)})
    pq.write_table(table, tmp_path / "logs/a.parquet")
    (tmp_path / "hyper.test").write_text("topk_factor choice [1,2]\n")
    return write_settings(tmp_path)


@pytest.mark.parametrize(
    ("deployment", "settings"),
    [("nightly-retrain-and-score/nightly", NIGHT), ("tune/tune", SEARCH)],
    ids=["night", "search"],
)
def test_a_cancelled_flow_run_ends_its_work_on_the_cluster(
    operator: Operator, cluster: Any, config: Path, deployment: str, settings: list[str]
) -> None:
    folder = config.parent
    overrides = [
        *settings, "engine.kind=ray", f"engine.address={cluster.address}", "engine.min_workers=2",
        f"tune.params_file={folder}/hyper.test", f"tune.out={folder}/tune",
    ]  # fmt: skip
    run = {"config": str(config), "run_date": "2026-07-01", "overrides": overrides}
    given = ["--params", json.dumps({"run": run})]
    said = operator.run("prefect", "deployment", "run", deployment, *given)
    (uuid,) = set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", said))
    flow_run = UUID(uuid)
    until(lambda: len(workers(cluster)) == 2 or operator.flow_run(flow_run).state.is_final(), 600)
    there = workers(cluster)
    assert len(there) == 2, operator.log_of(flow_run)
    operator.run("prefect", "flow-run", "cancel", uuid)
    assert ended_within(there, 20)
    assert not workers(cluster)
    operator.wait_for(lambda: operator.flow_run(flow_run).state.is_cancelled(), 60)
    assert not list(folder.glob("warehouse/recommendations"))
