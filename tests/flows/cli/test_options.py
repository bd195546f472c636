"""How commands end with errors."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import main
from flows.cli.options import one_line_errors, with_engine


@pytest.mark.parametrize("lightning", [False, True])
def test_ctrl_c_is_one_line_and_exit_code_130(lightning: bool, capsys: Any) -> None:
    @one_line_errors()
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if lightning:  # as its trainer does
                sys.exit(1)
            raise

    with pytest.raises(typer.Exit) as ended:
        interrupted()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted; run the same command to continue\n"


def test_ctrl_c_with_json_is_one_object(capsys: Any) -> None:
    @one_line_errors()
    def interrupted(as_json: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        interrupted(as_json=True)
    assert ended.value.exit_code == 130
    error = json.loads(capsys.readouterr().err)
    assert (error["error"], error["exit_code"]) == ("Interrupted", 130)


def test_what_has_overwritten_is_continued_without(capsys: Any) -> None:
    @one_line_errors()
    def interrupted(overwrite: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit):
        interrupted(overwrite=True)
    err = capsys.readouterr().err
    assert err.endswith(
        "run the same command to continue, without --overwrite once it has begun anew\n"
    )


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["ingest", "--forget", "a.parquet", "--force"], "--force"),
        (["evaluate", "--bundle", "x", "--force"], "--force"),
        (["evaluate", "--bundle", "x", "--engine", "ray"], "--engine"),
    ],
)
def test_an_option_that_means_nothing_is_refused(arguments: list[str], unused: str) -> None:
    done = CliRunner().invoke(main.app, arguments)
    assert done.exit_code == 2
    expected = f"error: {unused}: means nothing beside another option; found {arguments[1]}\n"
    assert done.stderr == expected


def test_another_exit_is_left_alone() -> None:
    with pytest.raises(SystemExit) as ended:
        one_line_errors()(sys.exit)(3)
    assert ended.value.code == 3


@pytest.mark.parametrize(
    "command",
    [
        ["nightly"],
        ["prepare"],
        ["evaluate"],
        ["score"],
        ["backfill", "--from=2026-06-30", "--to=2026-07-01"],
    ],
)
def test_where_the_work_is_done_is_an_override(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main.app, [*command, "--engine=spark"])
    assert done.exit_code == 2
    assert "engine.kind" in done.stderr


def test_an_engine_is_one_more_override() -> None:
    assert with_engine(["a.b=1"], "ray") == ["a.b=1", 'engine.kind="ray"']
    assert with_engine(None, None) == []
