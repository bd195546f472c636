"""The settings and logs of small searches."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from pipeline.tuning import tune
from pipeline.tuning.outputs import PLOTS_FILE
from tests.helpers.searches import GRID
from tests.helpers.tiny_night import MODEL, write_logs


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs in which every user visits the items in the same circular order."""
    folder = tmp_path_factory.mktemp("logs")
    write_logs(folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, logs: Path) -> Path:
    """Settings of a search over six combinations."""
    (tmp_path / "hyper.test").write_text(GRID)
    path = tmp_path / "given.toml"
    path.write_text(
        f"""
        warehouse = "{tmp_path}/warehouse"
        work_dir = "{tmp_path}/work"
        [logs]
        path = "{logs}"
        {MODEL}
        [train]
        epochs = 2
        clip_grad_norm = 5
        accelerator = "cpu"
        [evaluate]
        topk = [5, 10]
        bootstrap = 0
        [tune]
        params_file = "{tmp_path}/hyper.test"
        out = "{tmp_path}/tune"
        """
    )
    return path


@pytest.fixture(autouse=True)
def matmul_precision_as_before(matmul_precision: None) -> None:
    """Every search trains."""


@pytest.fixture
def plots() -> None:
    """For a test that is about the page of plots, too."""


@pytest.fixture(autouse=True)
def page_without_plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """An empty page instead of the plots, which take most of a small search's time."""

    def write_nothing(out: Path, study: optuna.Study) -> Path:
        (out / PLOTS_FILE).write_text("")
        return out / PLOTS_FILE

    with pytest.MonkeyPatch.context() as patch:
        if "plots" not in request.fixturenames:
            patch.setattr(tune, "write_plots", write_nothing)
        yield
