"""The sections of `fearec.toml`, each frozen and validated."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from model.config import FEARecConfig
from model.pydantic_base import NO_RESULT_CHANGE, Frozen
from pipeline.config.count_range import parse_intervals
from pipeline.config.event_types_section import Names, names_of_types
from pipeline.config.path_text import PathText
from pipeline.config.row_conditions import check_condition, condition_types
from pipeline.dates import MOST_DAYS


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a name too long, or a folder's
        raise ValueError("not a time zone of the IANA database") from None
    return name


TimeZone = Annotated[str, AfterValidator(_check_zone)]


class LogSettings(Frozen):
    """Where the interaction logs are and what their columns are called."""

    section = "logs"

    path: str = Field("logs", description="file or folder of the interaction logs")
    user_id: str = Field("user_id", description="the name of the column in your logs")
    item_id: str = Field("item_id", description="likewise")
    timestamp: str = Field("timestamp", description="likewise")
    timestamp_unit: Literal["s", "ms", "us", "ns"] = Field(
        "s", description="of numbers since the epoch: `s`, `ms`, `us` or `ns`"
    )
    time_zone: TimeZone | None = Field(
        None,
        description="of dates, and of timestamps that name no zone; default the run's `time_zone`",
    )
    event_type: str | None = Field(
        None, description="the name of a column that says what kind of event a row is; default none"
    )
    value: str | None = Field(
        None, description="the name of a column of numbers: a rating, a price, seconds; likewise"
    )
    keep: str | None = Field(
        None,
        description="only rows for which this DuckDB expression over the columns above is true, "
        "such as `event_type = 'view' AND value >= 4`",
    )

    @field_validator("event_type", "value", "keep")
    @classmethod
    def _given(cls, text: str | None) -> str | None:
        return text or None

    @field_validator("keep")
    @classmethod
    def _is_condition(cls, keep: str | None, info: ValidationInfo) -> str | None:
        if keep:
            named = [name for name in ("event_type", "value") if info.data.get(name)]
            check_condition(keep, condition_types(named))
        return keep

    @property
    def optional(self) -> dict[str, str]:
        """The names in the logs of the columns that logs need not have, by their meaning."""
        names = {"event_type": self.event_type, "value": self.value}
        return {meaning: name for meaning, name in names.items() if name}

    def with_zone(self, default: str) -> Self:
        """The same with a time zone: its own, or else the run's."""
        return self.model_copy(update={"time_zone": self.time_zone or default})


class ItemsSettings(Frozen):
    """What is known of the items: titles, for people, and attributes, for rules."""

    section = "items"

    path: PathText = Field(
        None,
        description="table of the items: a Parquet or CSV file or a Delta table with a column "
        "`item_id`, for what is shown to people perhaps `title`, and any others for `score.where`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    similar_by: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="columns of that table, the most telling one first, such as "
        '`["category", "brand"]`: items are similar that have equal values in all of them, or '
        "else in all but the last, and so on",
        json_schema_extra=NO_RESULT_CHANGE,
    )


class UsersSettings(Frozen):
    """What is known of the users: attributes, for segments."""

    section = "users"

    path: PathText = Field(
        None,
        description="table of the users: a Parquet or CSV file or a Delta table with a column "
        "`user_id` and any others, for `score.segment`",
        json_schema_extra=NO_RESULT_CHANGE,
    )


class PrepareSettings(Frozen):
    """Which events the model is trained on and scores from.

    k-core filtering by the names and in the notation of RecBole.
    """

    section = "prepare"

    history_days: int | None = Field(
        None,
        ge=1,
        le=MOST_DAYS,
        description="only events of so many days up to the end of the run date; default all",
    )
    user_inter_num_interval: str | None = Field(
        None,
        description="only users with so many interactions, such as [5,inf), in their history",
    )
    item_inter_num_interval: str | None = Field(
        None, description="only items with so many interactions"
    )

    @field_validator("user_inter_num_interval", "item_inter_num_interval", mode="before")
    @classmethod
    def _text(cls, interval: Any) -> Any:
        # TOML reads [5, 10], unlike [5,inf), as a list.
        return str(interval) if isinstance(interval, list | int | float) else interval

    @field_validator("user_inter_num_interval", "item_inter_num_interval")
    @classmethod
    def _readable(cls, interval: str | None) -> str | None:
        if interval is not None:
            parse_intervals(interval)
        return interval


class ModelSettings(Frozen):
    """A preset, and any hyper-parameter of `FEARecConfig` by its name."""

    section = "model"

    model_config = ConfigDict(extra="allow")

    preset: str = Field("paper", description="`paper`, `recbole` or `best`")

    @model_validator(mode="before")
    @classmethod
    def _any_case(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values  # which pydantic refuses
        # The environment knows no lower case, RecBole's MAX_ITEM_LIST_LENGTH no other.
        names = {name.lower(): name for name in FEARecConfig.model_fields}
        return {names.get(key.lower(), key): value for key, value in values.items()}

    @model_validator(mode="after")
    def _known(self) -> Self:
        if "n_items" in self.overrides:
            raise ValueError("n_items follows from the data and cannot be set")
        self.config(n_items=2)
        return self

    @property
    def overrides(self) -> Mapping[str, Any]:
        """The hyper-parameters set beside the preset."""
        return self.model_extra or {}

    def config(self, n_items: int) -> FEARecConfig:
        """The network's configuration for a vocabulary of `n_items`, PAD included."""
        return FEARecConfig.from_preset(self.preset, n_items=n_items, **self.overrides)


class EvaluateSettings(Frozen):
    """The protocol: how events are held out, and how the ranking of all items is judged."""

    section = "evaluate"

    split: Literal["leave_one_out", "time"] = Field(
        "leave_one_out", description="each user's last item, or the last days of all users"
    )
    test_days: int = Field(
        7,
        ge=1,
        le=MOST_DAYS,
        description="of a time split: the test's days, ending with the run date",
    )
    valid_days: int = Field(
        7, ge=1, le=MOST_DAYS, description="of a time split: the days before, for early stopping"
    )
    topk: tuple[int, ...] = Field((5, 10, 20), description="the k of every metric")
    mask_seen: bool | Names = Field(
        True,
        description="never rank what the user has already seen: `true` or `false`; or only what "
        'was seen by an event of a type, as in `"purchase"` or a list of types',
    )
    bootstrap: int = Field(
        1000, ge=0, description="resamples of the users for 95% intervals; 0 for none"
    )

    @field_validator("mask_seen", mode="before")
    @classmethod
    def _truth_or_types(cls, given: Any) -> Any:
        truth = {"true": True, "false": False}.get(str(given).lower())
        if truth is not None:
            return truth
        names = names_of_types(given)
        if not names:
            raise ValueError("must be true, false, or at least one type of events")
        return names

    @field_validator("topk", mode="before")
    @classmethod
    def _list(cls, topk: Any) -> Any:
        if isinstance(topk, int):
            return (topk,)
        if isinstance(topk, str | float):
            raise ValueError("must be a whole number or a list of them, such as [5, 10]")
        return topk

    @field_validator("topk")
    @classmethod
    def _positive(cls, topk: tuple[int, ...]) -> tuple[int, ...]:
        if not topk or min(topk) < 1:
            raise ValueError("every k must be at least 1, and one is needed")
        return tuple(sorted(set(topk)))

    def result_settings(self) -> dict[str, Any]:
        """See `Frozen.result_settings`; leave-one-out has no days."""
        settings = super().result_settings()
        if self.split == "leave_one_out":
            del settings["test_days"], settings["valid_days"]
        return settings

    @property
    def seen_types(self) -> Names:
        """The types of events that `mask_seen` names; empty for all."""
        return () if isinstance(self.mask_seen, bool) else self.mask_seen

    def held_out_for(self, targets: Names) -> tuple[str | int, ...]:
        """All that decides which events training must not know, given the types of the targets."""
        if self.split == "time":
            return self.split, self.test_days, self.valid_days
        return "last", *targets
