"""The stages of a run, in order."""

from typing import Any

from pipeline.runner.cache import Stage
from pipeline.runner.stages.data_stages import CheckData, Ingest, Prepare
from pipeline.runner.stages.gate_stage import Gate
from pipeline.runner.stages.model_stages import Evaluate, Export, Train
from pipeline.runner.stages.table_stages import Publish, Score

__all__ = [
    "STAGES",
    "CheckData",
    "Evaluate",
    "Export",
    "Gate",
    "Ingest",
    "Prepare",
    "Publish",
    "Score",
    "Train",
    "stage_named",
]

STAGES: tuple[type[Stage[Any]], ...] = (
    Ingest,
    Prepare,
    CheckData,
    Train,
    Evaluate,
    Export,
    Gate,
    Score,
    Publish,
)


def stage_named(name: str) -> type[Stage[Any]]:
    """The stage of a name, as in ``fearec NAME``."""
    return next(stage for stage in STAGES if stage.name == name)
