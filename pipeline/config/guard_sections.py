"""The sections of `fearec.toml` that say when a run is held."""

from typing import Literal

from pydantic import Field

from model.pydantic_base import Frozen


class CheckSettings(Frozen):
    """The checks of a run's data and of its tables."""

    section = "checks"


class GateSettings(Frozen):
    """When a new model may replace the champion."""

    section = "gate"

    enabled: bool = Field(
        True,
        description="false publishes every model whose numbers are finite, however it compares",
    )
    tolerance: float = Field(
        0.02, ge=0, le=1, description="how far NDCG@10 may be below the champion's"
    )
    max_drop: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share by which NDCG@10 may be below the champion's on its own run date, as it "
        "falls when logs are spoilt; 1 for no limit",
    )
    baseline: Literal["popularity", "co_occurrence", "none"] = Field(
        "popularity",
        description="what a model must not be below: `popularity`, `co_occurrence` or `none`",
    )
    baseline_margin: float = Field(
        0.0, ge=0, le=1, description="how far NDCG@10 has to be above that baseline's"
    )
    min_coverage: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the items that the lists could hold that is in any; 0 for no limit",
    )
    max_most_listed: float = Field(
        0.95,
        ge=0,
        le=1,
        description="share of the users whose lists hold one and the same item; 1 for no limit",
    )
