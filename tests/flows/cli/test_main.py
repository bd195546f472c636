"""The commands of `fearec`, and what they import and print before anything runs."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import main as cli
from pipeline.runner.stages import STAGES
from pipeline.scoring import cli as scoring


def test_commands_are_the_stages() -> None:
    assert [stage.name for stage in STAGES] == list(cli.STAGES)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("flows.cli.main", {"torch", "prefect", "deltalake", "pyarrow", "onnxruntime", "duckdb"}),
        (
            "pipeline.runner.nightly, flows.console.night",
            {"torch", "lightning", "prefect", "deltalake"},
        ),
        ("pipeline.training.train, pipeline.training.export", {"prefect"}),
    ],
)
def test_nothing_heavy_is_imported_before_its_time(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*({absent!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nightly", "--config", "nowhere.toml"], "nowhere.toml: no such settings file"),
        (["nightly", "--set", "score.topk=3"], "score.topk: unknown setting"),
        (["ingest", "--set", "logs.path=nowhere"], "nowhere: no such file or folder"),
        (["recommend", "1", "--set", "warehouse=nowhere"], "nowhere/interactions: no such table"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_want_of_memory_anywhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.config.settings.load_settings", refuse)
    done = CliRunner().invoke(cli.app, ["nightly"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: there is not enough memory")
    assert done.stderr.count("\n") == 1


def test_both_commands_print_their_version() -> None:
    for app in (cli.app, scoring.app):
        done = CliRunner().invoke(app, ["--version"])
        assert (done.exit_code, done.stdout) == (0, f"fearec {version('fearec')}\n")


def test_the_help_of_recommend_names_the_date_that_it_takes() -> None:
    out = CliRunner().invoke(cli.app, ["recommend", "--help"], env={"COLUMNS": "200"}).stdout
    assert "default: the newest" in out
    assert "today" not in out
