"""The section of `fearec.toml` for the search of hyper-parameters."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from model.pydantic_base import Frozen


class TuneSettings(Frozen):
    """How `fearec tune` searches; the same choices as its flags."""

    section = "tune"

    params_file: Path = Field(Path("hyper.test"), description="the search space, as RecBole's")
    algo: Literal["exhaustive", "random", "tpe"] = Field(
        "exhaustive", description="`exhaustive`, `random` or `tpe`"
    )
    max_evals: int | None = Field(
        None, ge=1, description="trials; default every combination of an exhaustive search, or 100"
    )
    workers: int = Field(
        1, ge=1, description="trials at a time on this machine, each a process where several"
    )
    prune: bool = Field(True, description="end trials early that are worse than the median")
    out: Path = Field(Path("tune"), description="folder of the search and what came of it")
