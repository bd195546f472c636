"""The nightly flow: whom it calls and what it tries again."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.errors import ConfigError, InputError, PublishError, TableCheckError

ROOT = Path(__file__).parents[3]


def test_nobody_is_called(tmp_path: Path) -> None:
    code = (
        "import flows.scheduled.nightly, prefect.settings as s;"
        "from prefect._internal.analytics.enabled import is_telemetry_enabled as sdk;"
        "print(s.get_current_settings().server.analytics_enabled, sdk())"
    )
    keep = {"PATH", "HOME"}
    env = {name: value for name, value in os.environ.items() if name in keep}
    env |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("module", ["nightly", "tune"])
def test_bad_settings_are_one_line(module: str) -> None:
    app = importlib.import_module(f"flows.scheduled.{module}").app
    done = CliRunner().invoke(app, ["--set", "train.epochs"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: --set: cannot read the override")


def test_a_bad_schedule_is_one_line() -> None:
    from flows.scheduled.serve import serve

    with pytest.raises(ConfigError, match="--cron: not a schedule; expected such as"):
        serve(None, [], "every night")


def test_only_what_may_pass_is_tried_again() -> None:
    from prefect.states import Failed

    from flows.scheduled.stage_tasks import _may_pass

    def may_pass(error: Exception) -> bool:
        return _may_pass(None, None, Failed(data=error))  # type: ignore[arg-type]

    assert may_pass(OSError("timeout"))
    assert may_pass(PublishError("another run wrote to the table meanwhile"))
    assert not may_pass(InputError("no such file or folder"))
    assert not may_pass(TableCheckError("the recommendations failed their checks"))


@pytest.mark.parametrize("name", ["nightly", "tune"])
def test_both_flows_can_be_run_with_json(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"flows.scheduled.{name}")

    def fail(*arguments: Any) -> None:
        raise InputError("no such file or folder", "logs")

    monkeypatch.setattr(module, name, fail)
    done = CliRunner().invoke(module.app, ["--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert json.loads(done.stderr)["where"] == "logs"
