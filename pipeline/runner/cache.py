"""What a run has done: a JSON record per stage, so that what is done is not done again.

A stage is given everything it depends on as its fields. Its cache key is the hash of exactly
these; a record counts where its key is the same and everything the stage made is still there.
"""

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from model.pydantic_base import Frozen
from pipeline.logs.log_files import LogFile
from pipeline.storage.atomic_files import replace_text
from pipeline.storage.locations import RunLocations

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

Result = TypeVar("Result")

# Metadata of a stage's field that changes nothing about its result.
NOT_IN_KEY = {"in_key": False}


@dataclass(frozen=True)
class StageRecord(Generic[Result]):
    """One stage of one run, done.

    Attributes:
        stage: The stage's name.
        cache_key: Hash of all that the stage was given.
        output_key: The part that enters later stages' cache keys.
        seconds: How long the stage took.
        result: What the stage returned: a dataclass of paths, counts and metrics.
        reused: Whether it had been done before, and was not done again.
    """

    stage: str
    cache_key: str
    output_key: str
    seconds: float
    result: Result
    reused: bool = False


class RunResults:
    """The records of a run's stages so far: ``results[Prepare]`` is that of prepare."""

    def __init__(self, *records: StageRecord[Any], unfit: str | None = None) -> None:
        """Take the records of some stages.

        Args:
            records: Of the stages that are done.
            unfit: Why the run has no model of its own: the message of an `UnfitModelError`.
        """
        self._by_name = {record.stage: record for record in records}
        self.unfit = unfit

    def __getitem__(self, stage: "type[Stage[Result]]") -> StageRecord[Result]:
        return self._by_name[stage.name]

    def __contains__(self, stage: "type[Stage[Any]]") -> bool:
        return stage.name in self._by_name

    def get(self, stage: "type[Stage[Result]]") -> StageRecord[Result] | None:
        """The record of a stage; None where the run does not have it."""
        return self._by_name.get(stage.name)

    @property
    def records(self) -> tuple[StageRecord[Any], ...]:
        """All of them, in the order of the stages."""
        return tuple(self._by_name.values())

    def with_record(self, record: StageRecord[Any]) -> "RunResults":
        """These and one more."""
        return RunResults(*self.records, record, unfit=self.unfit)

    def without_model(self, unfit: str) -> "RunResults":
        """These of a run whose own model turned out unfit."""
        return RunResults(*self.records, unfit=unfit)


class Stage(ABC, Generic[Result]):
    """A stage with all that it is given, as the fields of a frozen dataclass.

    Attributes:
        name: As in ``fearec NAME``.
        code_version: To be raised when the same fields shall give another result.
        result_type: The dataclass that `run` returns.
    """

    name: ClassVar[str]
    code_version: ClassVar[int] = 1
    result_type: ClassVar[type[Any]]

    @classmethod
    @abstractmethod
    def of(cls, settings: "Settings", locations: RunLocations, done: RunResults) -> Self:
        """The stage of a run, given the results of the stages before it."""

    @classmethod
    def is_needed(cls, done: RunResults) -> bool:
        """Whether a run has the stage, given the stages before it."""
        return True

    @classmethod
    def check_settings(
        cls, settings: "Settings", locations: RunLocations, done: RunResults, *, whole_run: bool
    ) -> None:
        """Check, before the stage begins, what later stages would refuse.

        Args:
            settings: Of the run.
            locations: Of the run.
            done: The stages before.
            whole_run: Whether all the later stages follow.
        """

    @abstractmethod
    def run(self) -> Result:
        """Do the stage."""

    def is_intact(self, result: Result) -> bool:
        """Whether what the stage made outside of the run's folder is still there."""
        return True

    def forced(self) -> Self:
        """The stage as it is when it is forced, which may do more."""
        return self

    def publish_forced(self) -> Self:
        """The stage as it is when the run's own model is to be published in any case."""
        return self

    def scratch(self) -> Path | None:
        """The folder of intermediate files that is emptied before the stage is forced."""
        return None

    def output_key(self, result: Result) -> str:
        """The part of the result that later stages depend on; by default all of it."""
        return hash_of([cache_key(self), to_jsonable_python(result)])


def cache_key(stage: Stage[Any]) -> str:
    """The hash of a stage's fields, its name and the version of its code."""
    given = {
        each.name: _key_part(getattr(stage, each.name))
        for each in fields(stage)  # type: ignore[arg-type]
        if each.metadata != NOT_IN_KEY
    }
    return hash_of({"stage": stage.name, "code_version": stage.code_version, "given": given})


def hash_of(value: Any) -> str:
    """The sha256 of anything that can be written as JSON."""
    text = json.dumps(to_jsonable_python(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@singledispatch
def _key_part(value: Any) -> Any:
    return to_jsonable_python(value)


@_key_part.register
def _(value: StageRecord) -> str:  # type: ignore[type-arg]
    return value.output_key


@_key_part.register
def _(value: Frozen) -> dict[str, Any]:
    return value.result_settings()


@_key_part.register
def _(value: RunLocations) -> list[str]:
    return [value.warehouse.place, str(value.run_date)]


@_key_part.register
def _(value: tuple) -> list[Any]:  # type: ignore[type-arg]
    return [_key_part(each) for each in value]


@_key_part.register
def _(value: LogFile) -> list[str]:
    return [value.path, value.stamp]


def read_record(path: Path, result_type: type[Result]) -> StageRecord[Result] | None:
    """A stage's record, if every file and folder of its result is still there.

    A record that cannot be read, perhaps of another version of fearec, counts as none; so does a
    folder in its place.
    """
    try:
        record = _codec(result_type).validate_json(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValidationError):
        return None
    values = [getattr(record.result, each.name) for each in fields(record.result)]  # type: ignore[arg-type]
    # Not Path.exists, which raises where a damaged name is too long.
    if all(os.path.exists(value) for value in values if isinstance(value, Path)):
        return replace(record, reused=True)
    return None


def write_record(path: Path, record: StageRecord[Any]) -> None:
    """Record a stage as done, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    content = _codec(type(record.result)).dump_json(record, indent=1, exclude={"reused"})
    replace_text(path, content.decode() + "\n")


def _codec(result_type: type[Result]) -> TypeAdapter[StageRecord[Result]]:
    return TypeAdapter(StageRecord[result_type])  # type: ignore[valid-type]
