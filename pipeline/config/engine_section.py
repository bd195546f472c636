"""The section `[engine]` of `fearec.toml`: where parts of the work are computed."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from model.pydantic_base import NO_RESULT_CHANGE, CountOrAuto, Frozen


class EngineSettings(Frozen):
    """Where histories are sorted, users scored and networks trained: here, or on a Ray cluster."""

    section = "engine"

    kind: Literal["local", "ray"] = Field(
        "local",
        description="where histories are sorted, users scored, trials trained and, by "
        "`engine.train_workers`, the network: `local`, this machine, or `ray`, a Ray cluster; "
        "needs the extra `ray`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    address: str = Field(
        "auto",
        description="of the Ray cluster's head, `host:port`; the command runs on one of its nodes. "
        "`auto`: the cluster that this machine belongs to, or `RAY_ADDRESS`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    num_cpus: int = Field(
        1,
        ge=1,
        description="cores per Ray worker: the threads of a sort, of training, and of scoring "
        "where `score.threads` is `auto`",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    num_gpus: int = Field(
        0,
        ge=0,
        le=1,
        description="GPUs per Ray worker; with 1, `score.provider = auto` means cuda, else cpu",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    min_workers: int = Field(
        1,
        ge=1,
        description="Ray workers that must have started before the first gets work",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    max_workers: CountOrAuto = Field(
        "auto",
        description="Ray workers at most, for which a cluster that can grow gets nodes; `auto`: as "
        "many as it has room for when the run begins",
        json_schema_extra=NO_RESULT_CHANGE,
    )

    train_workers: int = Field(
        0,
        ge=0,
        description="Ray workers that train a network together, each with `engine.num_cpus` "
        "threads or a GPU, whatever `train.devices` is; 0: the driver trains alone",
        json_schema_extra=NO_RESULT_CHANGE,
    )

    def on_cpus(self) -> "EngineSettings":
        """The settings of work that uses no GPU."""
        return self.model_copy(update={"num_gpus": 0})

    @field_validator("address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if address != "auto" and not (host and port.isdecimal() and "/" not in host):
            raise ValueError("must be auto, or the head's host:port, such as 10.0.0.5:6379")
        return address

    @model_validator(mode="after")
    def _in_order(self) -> "EngineSettings":
        if self.max_workers != "auto" and self.max_workers < self.min_workers:
            raise ValueError("max_workers is below min_workers")
        return self

    @property
    def trains_on_ray(self) -> bool:
        """Whether the training stage is given to workers of the cluster."""
        return self.kind == "ray" and self.train_workers > 0


LOCAL = EngineSettings()
