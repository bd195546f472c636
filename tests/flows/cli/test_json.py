"""``--json``: every command takes it, and what it prints is one JSON object."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import main as cli
from pipeline.scoring import cli as scoring

APPS = {"fearec": cli.app, "fearec-score": scoring.app}


def commands_of(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, each in inner.items():
        yield from commands_of(each, (*path, name))


COMMANDS = {
    path: command
    for name, app in APPS.items()
    for path, command in commands_of(typer.main.get_command(app), (name,))
}


# The arguments that a command needs, by its name: nonsense, as the settings are not there anyway.
NEEDED = {
    "recommend": ["7"],
    "promote": ["v1"],
    "diff": ["v1", "v2"],
    "backfill": ["--from", "2026-07-01", "--to", "2026-07-02"],
    "import": ["nowhere.csv", "--format", "csv", "--out", "logs"],
    "audience": ["--items", "ids.txt"],
    "fearec-score": ["logs", "--model", "bundle", "--output", "out"],
}


def arguments_of(path: tuple[str, ...]) -> list[str]:
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    config = ["--config", "nowhere.toml"] if "--config" in options else []
    return [*path[1:], *NEEDED.get(path[-1], []), *config]


def test_all_commands_are_looked_at() -> None:
    assert {
        ("fearec", name) for name in (*cli.STAGES, "nightly", "recommend", "tune", "import")
    } <= {*COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_json_and_fails_in_json(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app, arguments = APPS[path[0]], arguments_of(path)
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert (done.exit_code, done.stdout) == (2, ""), done.stderr
    error = json.loads(done.stderr)
    assert {*error} == {
        "error", "message", "what", "where", "expected", "found", "remedy", "exit_code"
    }  # fmt: skip
    assert error["what"]
    assert error["exit_code"] == 2
    plain = CliRunner().invoke(app, arguments)
    assert plain.stderr == f"error: {error['message']}\n"


def test_an_import_is_one_object(tmp_path: Path) -> None:
    source, logs = tmp_path / "a.csv", tmp_path / "logs"
    source.write_text("user_id,item_id,timestamp\n1,a,1500000000\n2,a,1500000001\n")
    arguments = ["import", str(source), "--format", "csv", "--out", str(logs), "--json"]
    done = CliRunner().invoke(cli.app, arguments)
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    imported = json.loads(done.stdout)
    assert (imported["n_interactions"], imported["logs"]) == (2, str(logs))
    assert imported["run_date"] == "2017-07-15"
