"""The parameters of the flows: the forms of Prefect's UI, validated when a flow run is created."""

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config.settings import Settings, load_settings

Override = Annotated[str, Field(pattern=r"^[^=\s][^=]*=")]


class FlowParameters(BaseModel):
    """What every flow takes: where its settings come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str | None = Field(
        None,
        description="Settings file, relative to the folder that was deployed from."
        " Default `fearec.toml`, where it is there.",
    )
    overrides: list[Override] = Field(
        default_factory=list,
        description="Settings in place of the file's, such as `train.epochs=20`.",
    )

    def settings(self) -> Settings:
        """The settings of the run.

        Raises:
            ConfigError: they cannot be read, or one is refused.
        """
        return load_settings(self.settings_file, self.overrides)

    @property
    def settings_file(self) -> Path | None:
        """The settings file that was given, as a path."""
        return Path(self.config) if self.config else None


class DatedParameters(FlowParameters):
    """Parameters of a flow that is about one run date."""

    run_date: date | None = Field(
        None, description="Run date. Default the day that `run_day` says."
    )
    run_day: Literal["yesterday", "today"] = Field(
        "yesterday",
        description="The run date of a flow run that is given none: the day before its scheduled"
        " time, which is over and whose logs are complete, or the day of it; in `time_zone`.",
    )

    def date(self, settings: Settings) -> date:
        """The run date of the flow run at work.

        It follows from the time that the flow run was scheduled for, so a late, repeated or missed
        one keeps its own.

        Args:
            settings: Their `time_zone` is the calendar.
        """
        if self.run_date:
            return self.run_date
        day = flow_run.scheduled_start_time.astimezone(ZoneInfo(settings.time_zone)).date()
        return day - timedelta(days=1) if self.run_day == "yesterday" else day


class StageParameters(DatedParameters):
    """Parameters of a flow of some stages."""

    force: bool = Field(False, description="Do again what is done already.")


class RunParameters(StageParameters):
    """Parameters of a whole run."""

    force_publish: bool = Field(
        False,
        description="Publish the run's own model, whatever the checks and the gate say.",
    )


class BackfillParameters(FlowParameters):
    """Parameters of a backfill."""

    first: date = Field(description="The first run date.")
    last: date = Field(description="The last run date.")
    force: bool = Field(False, description="Do again what is done already.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"the first run date, {self.first}, is after the last, {self.last}")
        return self


class TuneParameters(DatedParameters):
    """Parameters of a search for hyper-parameters."""

    overwrite: bool = Field(
        False, description="Begin anew where there is an earlier search; without it, it goes on."
    )


class CleanParameters(FlowParameters):
    """Parameters of the housekeeping."""

    dry_run: bool = Field(False, description="Only find out what would be removed.")
