"""The evaluation on a Ray cluster of two nodes on this machine: the figures of one process."""

import os
import signal
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from model.network.fearec import FEARec
from model.training.weights import save_weights
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.engine_section import EngineSettings
from pipeline.config.settings import Settings
from pipeline.results import Trained
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.ray_workers import ended_within, until, workers
from tests.helpers.stages import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

END = datetime(2026, 11, 11, tzinfo=UTC)
USERS = 4000


def test_the_figures_are_those_of_one_process_whatever_is_lost(
    cluster: Any, tmp_path: Path
) -> None:
    users = range(USERS)
    items = [
        [f"{(user * 5 + step * (1 + user % 3)) % 90:02d}" for step in range(7)] for user in users
    ]
    times = [[END - timedelta(days=7 - step, hours=-12) for step in range(7)] for _ in users]
    prepared = write_prepared(tmp_path / "prepared", items, times)
    here = Settings(
        model={"MAX_ITEM_LIST_LENGTH": 6, "contrast": "none"},
        train={"eval_batch_size": 8, "threads": 1},
        evaluate={"topk": (5, 10), "bootstrap": 20},
    )
    network = FEARec(here.model.config(prepared.n_items))
    torch.nn.init.normal_(network.item_embedding.weight)
    save_weights(network, tmp_path / HELD_OUT_WEIGHTS)
    trained = Trained(tmp_path, 1, 0.1, None, refit=False)
    day = date(2026, 11, 10)
    expected = evaluate(here, day, prepared, trained)
    assert expected.model != expected.popularity

    engine = EngineSettings(kind="ray", address=cluster.address, min_workers=2)
    killed: set[int] = set()

    def misfortune() -> None:
        until(lambda: len(workers(cluster)) == 2)
        killed.add(min(workers(cluster)))
        os.kill(min(killed), signal.SIGKILL)

    thread = threading.Thread(target=misfortune)
    thread.start()
    found = evaluate(here.model_copy(update={"engine": engine}), day, prepared, trained)
    thread.join()
    assert found == expected
    assert killed
    assert ended_within(workers(cluster), 20)
