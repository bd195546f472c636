"""What a night has done: one JSON file a stage, so that what is done is not done again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from pipeline.config.settings import Settings
from pipeline.storage.atomic_files import replace_text

Result = TypeVar("Result")


@dataclass(frozen=True)
class Record(Generic[Result]):
    """One stage of one night, done.

    Attributes:
        stage: The stage's name.
        fingerprint: Of the settings and inputs it was done with.
        seconds: What it took.
        result: What the stage returned: a dataclass of paths, counts and figures.
        reused: Whether it had been done before, and was not done again.
    """

    stage: str
    fingerprint: str
    seconds: float
    result: Result
    reused: bool = False


def night_folder(settings: Settings, run_date: date) -> Path:
    """The local folder of one night's records and intermediate files."""
    return settings.work_dir / f"run_date={run_date}"


def fingerprint(stage: str, settings: Mapping[str, Any], inputs: Any) -> str:
    """What changes when a stage has to be done again: a sha256 of its settings and inputs."""
    identity = to_jsonable_python({"stage": stage, "settings": settings, "inputs": inputs})
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(
    settings: Settings, run_date: date, stage: str, result_type: type[Result]
) -> Record[Result] | None:
    """What is recorded of a stage, if every file and folder of its result is still there.

    A record that cannot be read, of another version of fearec perhaps, counts as none.
    """
    try:
        content = _path(settings, run_date, stage).read_bytes()
        record = _codec(result_type).validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None
    values = [getattr(record.result, field.name) for field in fields(record.result)]  # type: ignore[arg-type]
    if all(value.exists() for value in values if isinstance(value, Path)):
        return replace(record, reused=True)
    return None


def write_record(settings: Settings, run_date: date, record: Record[Any]) -> None:
    """Record a stage as done, all or nothing."""
    path = _path(settings, run_date, record.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _codec(type(record.result)).dump_json(record, indent=1, exclude={"reused"})
    replace_text(path, content.decode() + "\n")


def _path(settings: Settings, run_date: date, stage: str) -> Path:
    return night_folder(settings, run_date) / f"{stage}.json"


def _codec(result_type: type[Result]) -> TypeAdapter[Record[Result]]:
    return TypeAdapter(Record[result_type])  # type: ignore[valid-type]
