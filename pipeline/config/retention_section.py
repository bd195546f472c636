"""The section of `fearec.toml` that says what is kept, and for how long."""

from typing import Annotated, Literal

from pydantic import Field

from model.pydantic_base import NO_RESULT_CHANGE, Frozen
from pipeline.dates import MOST_DAYS

RunDates = Annotated[int, Field(ge=1)] | Literal["all"]


class RetentionSettings(Frozen):
    """What `fearec clean`, and every run at its end, leaves in place."""

    section = "retention"

    after_runs: bool = Field(
        True,
        description="clean at the end of every run, as `fearec clean` does",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    work: RunDates = Field(
        7,
        description="run dates, the newest, whose folders in `work_dir` are kept, or `all`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    models: RunDates = Field(
        30,
        description="run dates whose models are kept, and the model before these, or `all`; the "
        "champion, the candidate and those of published partitions always are",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    recommendations: RunDates = Field(
        90,
        description="run dates whose recommendations, and whose reports, are kept, or `all`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    table_days: float = Field(
        7,
        ge=0,
        le=MOST_DAYS,
        description="days for which tables can be read as they were; more than the longest run",
        json_schema_extra=NO_RESULT_CHANGE,
    )
