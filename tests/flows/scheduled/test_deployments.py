"""The deployments as shipped: their flows are there, and take their parameters."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.scheduled.automations import TAG

ROOT = Path(__file__).parents[3]
DEPLOYMENTS = [
    (name, deployment)
    for name in ("prefect.yaml", "prefect.docker.yaml")
    for deployment in yaml.safe_load((ROOT / name).read_text())["deployments"]
]
NAMES = ["nightly", "ingest", "retrain", "batch-score", "publish", "backfill", "tune", "clean"]


def test_all_are_there() -> None:
    shipped = [given["name"] for name, given in DEPLOYMENTS if name == "prefect.yaml"]
    assert shipped == NAMES


@pytest.mark.parametrize(
    "deployment", [each for _, each in DEPLOYMENTS], ids=lambda each: each["name"]
)
def test_a_deployment_works_as_shipped(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(ROOT)
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    (run,) = flow.validate_parameters(deployment["parameters"]).values()
    assert Path(run.settings().logs.path).exists()
    assert TAG in deployment["tags"]
    for schedule in deployment.get("schedules", []):
        assert {"slug", "active", "timezone"} <= set(schedule)
    limit = deployment["concurrency_limit"]
    # A night waits for the one before it; another run of the same is in the way.
    strategy = "ENQUEUE" if deployment["name"].startswith("nightly") else "CANCEL_NEW"
    assert limit == {"limit": 1, "collision_strategy": strategy}
