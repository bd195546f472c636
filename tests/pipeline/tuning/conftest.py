"""The settings and logs of small searches."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.tuning import tune
from pipeline.tuning.outputs import PLOTS_FILE
from tests.helpers.searches import EVENTS, GRID, ITEMS, USERS


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs in which every user visits the items in the same circular order."""
    folder = tmp_path_factory.mktemp("logs")
    user, step = np.divmod(np.arange(USERS * EVENTS), EVENTS)
    end = datetime(2026, 6, 30, 12, tzinfo=UTC)
    times = [end - timedelta(hours=int(EVENTS - s)) for s in step]
    items = [f"item-{(u * 3 + s) % ITEMS:02d}" for u, s in zip(user, step, strict=True)]
    table = pa.table({"user_id": user, "item_id": items, "timestamp": times})
    pq.write_table(table, folder / "a.parquet")
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
        [model]
        hidden_size = 8
        inner_size = 8
        n_layers = 1
        MAX_ITEM_LIST_LENGTH = 6
        contrast = "none"
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
def quiet() -> Iterator[None]:
    """Restore the process-wide settings of PyTorch and Lightning."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


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
