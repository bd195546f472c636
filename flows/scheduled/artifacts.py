"""Prefect's artifacts of a run: its decision and metrics, its stages, and training's progress."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from pipeline.runner.cache import RunResults
from pipeline.runner.nightly import FinishedRun
from pipeline.runner.stages import Evaluate
from pipeline.storage.folders import is_uri

_SECONDS_BETWEEN_UPDATES = 5.0


def publish_artifacts(run: FinishedRun, headlines: Sequence[str]) -> None:
    """Create the artifacts `nightly`, `stages`, `metrics` and `report`, a version per run each."""
    night = f"Night of {run.run_date}"
    create_markdown_artifact(
        "\n".join(f"- {line}" for line in headlines), key="nightly", description=night
    )
    create_table_artifact(_stages(run.results), key="stages", description=night)
    if run.report:
        page = run.report.page
        link = page if is_uri(page) else Path(page).resolve().as_uri()
        create_link_artifact(link, f"Report of {run.run_date}", key="report", description=night)
    if evaluated := run.results.get(Evaluate):
        create_table_artifact(
            [
                {
                    "metric": name,
                    "model": f"{value:.4f}",
                    "popularity": f"{evaluated.result.popularity[name]:.4f}",
                    "co-occurrence": f"{evaluated.result.co_occurrence[name]:.4f}",
                }
                for name, value in evaluated.result.model.items()
            ],
            key="metrics",
            description=f"{night}: {evaluated.result.protocol}",
        )


def _stages(results: RunResults) -> list[dict[str, str]]:
    return [
        {
            "stage": record.stage,
            "seconds": f"{record.seconds:.1f}",
            "": "done before" if record.reused else "",
        }
        for record in results.records
    ]


class _ProgressHandler(logging.Handler):
    """Keeps the artifact `training` at the share of epochs that the trainer logs as done."""

    def __init__(self) -> None:
        super().__init__()
        self.artifact: UUID | None = None
        self.updated_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Update the artifact by a record of an epoch; all others pass by."""
        epoch, epochs = getattr(record, "epoch", None), getattr(record, "epochs", None)
        if not (epoch and epochs):
            return
        try:
            self._update(100.0 * epoch / epochs, record.getMessage(), last=epoch == epochs)
        except Exception:  # of the server: no reason to end the training
            self.handleError(record)

    def _update(self, percent: float, description: str, *, last: bool) -> None:
        if self.artifact is None:
            made = create_progress_artifact(percent, "training", description)
            self.artifact = cast(UUID, made)  # a coroutine in asynchronous flows only
        elif last or time.monotonic() - self.updated_at > _SECONDS_BETWEEN_UPDATES:
            update_progress_artifact(self.artifact, percent, description)
        else:
            return
        self.updated_at = time.monotonic()


@contextmanager
def training_progress() -> Iterator[None]:
    """Keep a progress artifact of the training in the ``with`` block."""
    handler = _ProgressHandler()
    trainer = logging.getLogger("model.training")
    trainer.addHandler(handler)
    try:
        yield
    finally:
        trainer.removeHandler(handler)
