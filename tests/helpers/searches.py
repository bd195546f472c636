"""Small searches for hyper-parameters."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config.settings import load_settings
from pipeline.tuning.tune import Tuned, tune

DAY = date(2026, 7, 1)
GRID = "learning_rate choice [0.001,0.03]\ntopk_factor choice [1,2,3]\n"


def run(config: Path, *overrides: str, **options: Any) -> Tuned:
    return tune(load_settings(config, overrides), DAY, **options)


def rows(tuned: Tuned) -> list[dict[str, Any]]:
    return pq.read_table(tuned.trials).to_pylist()
