"""The sections of `fearec.toml` that say when a run is held."""

from pydantic import Field

from model.pydantic_base import Frozen


class CheckSettings(Frozen):
    """The checks of a run's data and of its tables."""

    section = "checks"


class GateSettings(Frozen):
    """When a new model may replace the champion."""

    section = "gate"

    tolerance: float = Field(0.02, ge=0, description="how far NDCG@10 may be below the champion's")
