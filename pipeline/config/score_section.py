"""The section `[score]` of `fearec.toml`."""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from model.cores import Threads
from model.pydantic_base import NO_RESULT_CHANGE, Frozen
from pipeline.config.row_conditions import check_condition
from pipeline.config.rule_tables import PromotedSlots, SegmentSettings, check_slots
from pipeline.config.seen_rule import EXPECTED, SeenEvents, SeenRule
from pipeline.dates import RunDay

# Rules that earlier versions did not have: left out of keys where they are not set.
_LATER_RULES = (
    "retire_after_days",
    "where",
    "max_per",
    "promotion",
    "segment",
    "offset",
    "freshness",
    "because",
)


class FreshnessBoost(Frozen):
    """What is added to the scores of newer items."""

    section = "score.freshness"

    weight: float = Field(gt=0, description="what an item gets that was created just now")
    half_life_days: float = Field(gt=0, description="the age at which it is half of that")


class ScoreSettings(Frozen):
    """What to recommend to which users; the same choices as the flags of `fearec-score`."""

    section = "score"

    top_k: int = Field(10, ge=1, description="recommendations per user")
    batch_size: int | Literal["auto"] = Field(
        "auto", description="users per batch, or `auto`", json_schema_extra=NO_RESULT_CHANGE
    )
    provider: Literal["auto", "cuda", "tensorrt", "cpu"] = Field(
        "auto", description="`auto`, `cuda`, `tensorrt` or `cpu`"
    )
    precision: Literal["fp32", "fp16"] = Field(
        "fp32", description="fp16 is for GPUs; the bundle must have it (export.fp16)"
    )
    devices: int | Literal["auto"] = Field(
        1,
        description="processes, each with a GPU of its own; `auto` for every GPU",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    threads: Threads = Field(
        "auto",
        description="CPU threads, shared by the processes of `score.devices`; `auto`: the cores "
        "that this process may use",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    exclude_seen: bool | tuple[str, ...] = Field(
        True,
        description="never recommend what a user has seen: `true` or `false`; or only what was "
        'seen in so many days, as in `"30 days"`, or by an event of a type, as in `"purchase"`; or '
        'both, as in `["purchase", "30 days"]`, with any number of types',
    )
    allow: str | None = Field(None, description="file of item ids: nothing else is recommended")
    deny: str | None = Field(None, description="file of item ids never recommended")
    where: str | None = Field(
        None,
        description="recommend only items for which this DuckDB expression is true, over the "
        "columns of the table `items.path` (null where an item has no row) and `popularity` and "
        "`last_seen` of the model's items, such as `in_stock AND price < 100`",
    )
    max_per: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="at most so many items of each value of a column in a list, such as "
        "`{ category = 3 }`; items without a value do not count",
    )
    promotion: tuple[PromotedSlots, ...] = Field(
        (),
        description="`[[score.promotion]]` with `where` and `slots`: these places of every list "
        "are for the best items for which the expression is true, earlier promotions first",
    )
    segment: tuple[SegmentSettings, ...] = Field(
        (),
        description="`[[score.segment]]` with `name`, `users` and perhaps `where`, `top_k` and "
        "`promotion`: other rules for some of the users; the first that a user is in counts",
    )
    offset: str | None = Field(
        None,
        min_length=1,
        description="a column of numbers of the table `items.path` that are added to the model's "
        "scores of the items; nothing where it is null",
    )
    freshness: FreshnessBoost | None = Field(
        None,
        description="`{ weight = 0.5, half_life_days = 7 }` adds `weight * 2^(-age / "
        "half_life_days)` to the model's scores, by the column `created_at` of the table "
        "`items.path`; nothing where it is null",
    )
    accept_unknown_deny: bool = Field(
        False,
        description="go on although the model knows none of the ids in `score.deny`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    because: bool = Field(
        False,
        description="a column `because`: for every listed item the `item_id` of the user's history "
        "that is nearest to it, by the cosine of the items' embeddings, among the last items that "
        "the model reads; of equal ones the most recent. Null in popular lists",
    )
    layout: Literal["long", "list"] = Field(
        "long", description="`long`: a row per user and rank; `list`: a row per user"
    )
    active_within_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="only users with an event in so many days; default all",
    )
    retire_after_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="never recommend items without an event in so many days; default none is "
        "retired",
    )

    @field_validator("allow", "deny", mode="before")
    @classmethod
    def _as_text(cls, path: Any) -> Any:  # a URI would not survive as a Path
        return os.fspath(path) if isinstance(path, os.PathLike) else path

    @field_validator("exclude_seen", mode="before")
    @classmethod
    def _seen_rule(cls, given: Any) -> bool | tuple[str, ...]:
        # The environment has texts only.
        given = {"true": True, "false": False}.get(str(given).lower(), given)
        if isinstance(given, bool):
            return given
        words = [given] if isinstance(given, str) else given
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"must be {EXPECTED} of these")
        return SeenRule.of(words).words

    @field_validator("where")
    @classmethod
    def _is_condition(cls, where: str | None) -> str | None:
        if not where:
            return None
        check_condition(where, columns=None)
        return where

    @field_validator("batch_size", "devices", "threads")
    @classmethod
    def _positive(cls, count: int | str, info: ValidationInfo) -> int | str:
        if isinstance(count, int) and count < 1:
            raise ValueError(f"{info.field_name} must be at least 1, or auto")
        return count

    @model_validator(mode="after")
    def _check_slots(self) -> Self:
        check_slots(self.promotion, self.top_k, "score.promotion", "score.top_k")
        names = [each.name for each in self.segment]
        for each in self.segment:
            if names.count(each.name) > 1:
                raise ValueError(f"two segments have the name {each.name!r}")
            own = f"segment {each.name!r}"
            whose = "score.top_k" if each.top_k is None else f"top_k of {own}"
            promotions = self.promotion if each.promotion is None else each.promotion
            setting = "score.promotion" if each.promotion is None else f"promotion of {own}"
            check_slots(promotions, each.top_k or self.top_k, setting, whose)
        return self

    @property
    def seen_rule(self) -> SeenRule | None:
        """Which events exclude their items; None where `exclude_seen` says all, or none."""
        return None if isinstance(self.exclude_seen, bool) else SeenRule.of(self.exclude_seen)

    def seen_on(self, run_day: RunDay | None) -> SeenEvents | None:
        """Which events exclude their items on a run date, which is not needed without a rule."""
        if self.seen_rule is None:
            return None
        assert run_day is not None
        return self.seen_rule.on(run_day)

    @property
    def needs_attributes(self) -> bool:
        """Whether some rule is over the columns of the items table."""
        own = any(segment.where or segment.promotion for segment in self.segment)
        rules = self.where or self.max_per or self.promotion or self.offset or self.freshness
        return bool(rules or own)

    @property
    def most_items(self) -> int:
        """The greatest number of recommendations that any user may get."""
        return max([self.top_k, *(segment.top_k or 0 for segment in self.segment)])

    @property
    def needs_ages(self) -> bool:
        """Whether some rule is over the ages of items at the end of the run date."""
        return self.freshness is not None

    @property
    def marks_items(self) -> bool:
        """Whether the items of one list can differ in their source."""
        return bool(self.promotion) or any(segment.promotion for segment in self.segment)

    def result_settings(self) -> dict[str, Any]:
        """See `Frozen.result_settings`; `_LATER_RULES` only where they are set."""
        settings = super().result_settings()
        for name in _LATER_RULES:
            if not settings[name]:
                del settings[name]
        return settings
