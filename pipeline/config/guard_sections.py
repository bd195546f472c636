"""The sections of `fearec.toml` that say when a run is held."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from model.pydantic_base import Frozen


class Limit(Frozen):
    """The limit of one check, and what follows where it is exceeded."""

    section = "checks"

    limit: float = Field(ge=0)
    action: Literal["off", "warn", "hold"]


def _check(limit: float, action: Literal["warn", "hold"], description: str) -> Any:
    return Field(Limit(limit=limit, action=action), description=description)


class CheckSettings(Frozen):
    """The checks of a run's data and of its tables; *usual* is the median of the last 28 runs."""

    section = "checks"

    # Of the data, before the training. `hold`: the champion serves, and nothing is trained.
    quarantined: Limit = _check(0.2, "hold", "largest share of the rows read that are bad")
    freshness: Limit = _check(
        3, "hold", "days by which the newest event may be older than usual; a first run only warns"
    )
    new_events: Limit = _check(0.1, "warn", "fewest new events, as a share of the usual number")
    users: Limit = _check(0.5, "hold", "fewest users, as a share of the usual number")
    items: Limit = _check(0.5, "hold", "fewest items, as a share of the usual number")
    new_items: Limit = _check(
        0.2, "warn", "by how much the share of new items may be above the usual one"
    )
    unknown_items: Limit = _check(
        0.5, "hold", "likewise the share of new events that are on new items"
    )
    popularity_drift: Limit = _check(
        0.25, "warn", "likewise the PSI of the new events' items against the events before"
    )
    length_drift: Limit = _check(
        0.25, "warn", "likewise the PSI of the histories' lengths against those before"
    )
    realised: Limit = _check(
        0.5, "warn", "lowest hit rate of the last published lists, as a share of the usual one"
    )
    # Of the recommendations, before they are published. `hold`: the run fails, and the table stays
    # as it is.
    short_lists: Limit = _check(
        0.3, "hold", "by how much the share of lists below `score.top_k` may be above the usual one"
    )
    fallback: Limit = _check(
        0.3, "hold", "likewise the share of users with popular items for want of a known one"
    )
    changed_lists: Limit = _check(
        0.5, "warn", "likewise the share of users with another list than the day before"
    )
    overlap: Limit = _check(
        0.5, "warn", "least mean Jaccard index of both days' lists, as a share of the usual one"
    )
    coverage: Limit = _check(
        0.1, "hold", "least share of the eligible items in any list, as a share of the usual one"
    )

    @model_validator(mode="before")
    @classmethod
    def _each_beside_its_default(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values  # which pydantic refuses
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {
            name: {**defaults[name].model_dump(), **value}
            if name in defaults and isinstance(value, Mapping)
            else value
            for name, value in values.items()
        }


class GateSettings(Frozen):
    """When a new model may replace the champion."""

    section = "gate"

    enabled: bool = Field(
        True,
        description="false publishes every model whose numbers are finite, however it compares",
    )
    tolerance: float = Field(
        0.02,
        ge=0,
        le=1,
        description="how far below 0 the 95% interval of NDCG@10's difference from the champion's "
        "may begin, where all of it is below 0",
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
        description="share of the users with a history whose lists hold one and the same item; "
        "1 for no limit",
    )
