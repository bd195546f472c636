"""The section of `fearec.toml` for the record of runs outside of the warehouse."""

from pydantic import Field

from model.pydantic_base import NO_RESULT_CHANGE, Frozen


class RegistrySettings(Frozen):
    """Where runs and model versions are noted beside `models/champion.json`."""

    section = "registry"

    mlflow_tracking_uri: str | None = Field(
        None,
        description="an MLflow server or database to log runs and models to; needs the extra"
        " `mlflow`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    mlflow_name: str = Field(
        "fearec",
        min_length=1,
        description="the experiment and the registered model there",
        json_schema_extra=NO_RESULT_CHANGE,
    )
