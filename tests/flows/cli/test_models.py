"""`fearec models`, on the warehouse that version 0.1.0 wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.cli.main import app

GOLDEN = Path(__file__).parents[2] / "golden" / "version_0_1"
SECOND, THIRD = "20260602-0db89ae1", "20260603-c54d8fb4"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "here", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def shown(*arguments: str) -> str:
    done = call(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def as_json(*arguments: str) -> Any:
    return json.loads(shown(*arguments, "--json"))


def test_the_list_has_a_line_per_version() -> None:
    lines = shown("list").splitlines()
    third, second = lines[2].split(), lines[3].split()
    assert (third[0], third[1], third[4:7]) == (
        THIRD, "2026-06-03", ["0.1250", "promoted", "champion"],
    )  # fmt: skip
    assert (second[0], second[4:6]) == (SECOND, ["0.4385", "promoted"])
    assert len(lines) == 4
    versions = as_json("list")["versions"]
    assert [each["model_version"] for each in versions] == [THIRD, SECOND]
    assert versions[0]["served"] == ["2026-06-03"]


def test_one_version_is_shown_in_full() -> None:
    out = shown("show")
    for line in (
        f"version: {THIRD}",
        "alias: champion",
        f"parent: {SECOND}",
        "  2026-06-03: promoted",
        "  hidden_size: 4",
        "  train.learning_rate: 0.001",
        "  n_interactions: 143",
        "  max_error: 2.38419e-07",
    ):
        assert line in out.splitlines()
    assert "co-occurrence" in out
    assert as_json("show", SECOND)["description"]["hyper_parameters"]["hidden_size"] == 4


def test_two_versions_are_compared() -> None:
    lines = shown("diff", SECOND, THIRD).splitlines()
    assert lines[0].split() == [SECOND, THIRD]
    assert ["data.n_interactions", "95", "143"] in [line.split() for line in lines]
    assert not any(line.startswith("settings") for line in lines)
    assert shown("diff", THIRD, THIRD) == "No difference.\n"
    differences = as_json("diff", SECOND, THIRD)["differences"]
    assert {"name": "data.n_interactions", "first": 95, "second": 143} in differences


def test_the_champion_is_chosen_by_hand() -> None:
    assert f"champion: {SECOND} (rolled back), in place of {THIRD}" in shown("rollback")
    assert "alias: champion" in shown("show", SECOND)
    promotion = as_json("promote", THIRD)
    assert promotion["before"]["decision"] == "rolled back"
    assert promotion["now"] == {
        "run_date": "2026-06-03", "model_version": THIRD, "path": THIRD, "decision": "forced",
    }  # fmt: skip
    assert f"in place of {THIRD}" in shown("rollback", "--to", SECOND)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "warehouse/models: no such model version; found nowhere."),
        (["promote", "nowhere"], "warehouse/models: no such model version; found nowhere."),
        (["diff", THIRD, "nowhere"], "warehouse/models: no such model version; found nowhere."),
        (["rollback", "--to", "nowhere"], "warehouse/models/champion.json: no such earlier"),
        (["show", "--set", "warehouse=none"], "none/models/champion.json: no model was published"),
    ],
)
def test_an_unknown_version_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_warehouse_without_models_has_an_empty_list() -> None:
    assert shown("list", "--set", "warehouse=none") == "There are no models yet.\n"
    assert not Path("none").exists()
