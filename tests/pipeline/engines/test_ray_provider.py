"""The provider of Ray workers: where it does not work on a node, the run is an error."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.bundles.bundle import Bundle
from pipeline.config.engine_section import EngineSettings
from pipeline.errors import ConfigError
from pipeline.scoring.cli import app
from tests.helpers.scoring_cases import random_histories, run, write_sequences

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return write_sequences(tmp_path / "sequences.parquet", random_histories(20))


@pytest.mark.parametrize("max_workers", [1, 2])
def test_a_provider_that_does_not_work_on_a_node_is_an_error_and_leaves_nothing(
    cluster: Any, inputs: Path, tiny_bundle: Bundle, tmp_path: Path, max_workers: int
) -> None:
    engine = EngineSettings(kind="ray", address=cluster.address, max_workers=max_workers)
    with pytest.raises(ConfigError, match="CUDA") as caught:
        run(inputs, tiny_bundle, tmp_path / "out", provider="cuda", engine=engine)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    works = run(inputs, tiny_bundle, tmp_path / "out", provider="cpu", engine=engine)
    assert (works.devices, works.provider) == (max_workers, "CPUExecutionProvider")


def test_by_the_command_it_is_one_line_and_exit_code_2(
    cluster: Any, inputs: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    arguments = [str(inputs), f"--model={tiny_bundle.path}", f"--output={tmp_path / 'out'}"]
    options = ["--engine=ray", "--provider=cuda", "--set", f"engine.address={cluster.address}"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
