"""The section `[score]` of `fearec.toml`."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from model.pydantic_base import NO_RESULT_CHANGE, CountOrAuto, Frozen
from pipeline.config.path_text import PathText
from pipeline.config.rule_tables import (
    FreshnessBoost,
    NewItemQuota,
    OptionalCondition,
    PromotedSlots,
    SegmentSettings,
    check_slots,
)
from pipeline.config.seen_rule import EXPECTED, SeenEvents, SeenRule
from pipeline.dates import MOST_DAYS, RunDay

Provider = Literal["auto", "cuda", "tensorrt", "cpu"]
Precision = Literal["fp32", "fp16"]

# Rules that earlier versions did not have: left out of keys where they are not set.
_LATER_RULES = (
    "retire_after_days",
    "where",
    "max_per",
    "promotion",
    "segment",
    "offset",
    "freshness",
    "new_items",
    "popular_within_days",
    "because",
    "candidates",
    "exclude",
)


class ScoreSettings(Frozen):
    """What to recommend to which users; the same choices as the flags of `fearec-score`."""

    section = "score"

    top_k: int = Field(10, ge=1, description="recommendations per user")
    batch_size: CountOrAuto = Field(
        "auto", description="users per batch, or `auto`", json_schema_extra=NO_RESULT_CHANGE
    )
    provider: Provider = Field("auto", description="`auto`, `cuda`, `tensorrt` or `cpu`")
    precision: Precision = Field(
        "fp32", description="fp16 is for GPUs; the bundle must have it (export.fp16)"
    )
    devices: CountOrAuto = Field(
        1,
        description="processes, each with a GPU of its own; `auto` for every GPU",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    threads: CountOrAuto = Field(
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
    allow: PathText = Field(None, description="file of item ids: nothing else is recommended")
    deny: PathText = Field(None, description="file of item ids never recommended")
    candidates: PathText = Field(
        None,
        description="file, folder or glob of rows of `user_id` and `item_id`: each user gets only "
        "items of their own rows, in the places of promotions too, of those that the other rules "
        "let through; a user without a row gets no list",
    )
    exclude: PathText = Field(
        None,
        description="file, folder or glob of rows of `user_id` and `item_id`: items that these "
        "users never get, popular and promoted ones included",
    )
    where: OptionalCondition = Field(
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
    new_items: NewItemQuota | None = Field(
        None,
        description="`{ share = 0.1, within_days = 14 }` gives places of every list to items "
        "without events that were created so recently, by the column `created_at` of the table "
        "`items.path`; they are ranked by the items that `items.similar_by` calls similar",
    )
    popular_within_days: int | None = Field(
        None,
        ge=1,
        le=MOST_DAYS,
        description="users without a known item get what was popular in so many days up to the run "
        "date; default what is popular in all events that the model was trained on",
    )
    accept_unknown_deny: bool = Field(
        False,
        description="go on although none of the ids in `score.deny` is known, or no user or no "
        "item of `score.exclude`",
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
        le=MOST_DAYS,
        description="only users with an event in so many days; default all",
    )
    retire_after_days: int | None = Field(
        None,
        ge=1,
        le=MOST_DAYS,
        description="never recommend items without an event in so many days; default none is "
        "retired",
    )

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

    @model_validator(mode="after")
    def _check_slots(self) -> Self:
        names = [each.name for each in self.segment]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two segments have the name {name!r}")
        if self.new_items and self.candidates:
            raise ValueError("score.new_items and score.candidates exclude each other")
        for number, segment in enumerate((None, *self.segment)):
            own = self.of_segment(number)
            setting, length = "score.promotion", "score.top_k"
            if segment is not None and segment.promotion is not None:
                setting = f"promotion of segment {segment.name!r}"
            if segment is not None and segment.top_k is not None:
                length = f"top_k of segment {segment.name!r}"
            check_slots(own.promotion, own.top_k, own._n_new_places, setting, length)
        return self

    def of_segment(self, number: int) -> Self:
        """The same with `top_k` and `promotion` of a segment: its number from 1, or 0 for none."""
        if number == 0:
            return self
        segment = self.segment[number - 1]
        own = {"top_k": segment.top_k, "promotion": segment.promotion}
        given = {name: value for name, value in own.items() if value is not None}
        return self.model_copy(update=given)

    @property
    def new_item_places(self) -> tuple[int, ...]:
        """The places from 0 of new items: the last ones of equal stretches of the places left.

        Those are the places that are no slots of promotions.
        """
        slots = {slot for promotion in self.promotion for slot in promotion.slots}
        left = [place - 1 for place in range(1, self.top_k + 1) if place not in slots]
        count = self._n_new_places
        return tuple(left[stretch * len(left) // count - 1] for stretch in range(1, count + 1))

    @property
    def _n_new_places(self) -> int:
        # Of the share as it is written: 0.07 * 100 is above 7 in floats.
        return math.ceil(Fraction(str(self.new_items.share)) * self.top_k) if self.new_items else 0

    @property
    def user_lists(self) -> tuple[str, ...]:
        """The paths of what is listed per user."""
        return tuple(path for path in (self.candidates, self.exclude) if path is not None)

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
        rules = self.where, self.max_per, self.promotion, self.offset, self.freshness
        return any(rules) or own or self.new_items is not None

    @property
    def most_items(self) -> int:
        """The greatest number of recommendations that any user may get."""
        return max([self.top_k, *(segment.top_k or 0 for segment in self.segment)])

    @property
    def needs_ages(self) -> bool:
        """Whether some rule is over ages, of items or events, at the end of the run date."""
        rules = self.freshness, self.new_items, self.popular_within_days
        return any(rule is not None for rule in rules)

    @property
    def marks_items(self) -> bool:
        """Whether the items of one list can differ in their source."""
        own = any(segment.promotion for segment in self.segment)
        return bool(self.promotion) or own or self.new_items is not None

    def result_settings(self) -> dict[str, Any]:
        """See `Frozen.result_settings`; `_LATER_RULES` only where they are set."""
        settings = super().result_settings()
        for name in _LATER_RULES:
            if not settings[name]:
                del settings[name]
        return settings
