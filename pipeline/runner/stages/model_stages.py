"""The stages of the model: train, evaluate and export.

What a stage calls is imported when it runs, so that a look at the records loads no PyTorch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config import TrainingConfig
from pipeline.bundles.description import DESCRIPTION, has_every_file
from pipeline.bundles.registry import (
    RegisteredModel,
    champion_before,
    local_bundle,
)
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.event_types_section import EventTypeSettings, Names
from pipeline.config.export_section import ExportSettings
from pipeline.config.sections import (
    EvaluateSettings,
    ModelSettings,
    PrepareSettings,
)
from pipeline.config.settings import Settings
from pipeline.data.held_out import HeldOut, held_out_events
from pipeline.dates import RunDay, days_before
from pipeline.evaluation.protocol import check_topk
from pipeline.progress import work_progress
from pipeline.results import Evaluated, Exported, Prepared, Trained
from pipeline.runner.cache import NOT_IN_KEY, RunResults, Stage, StageRecord
from pipeline.runner.scoring_checks import check_scoring
from pipeline.runner.stages.data_stages import CheckData, Prepare
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import StoreFolder
from pipeline.storage.locations import RunLocations


@dataclass(frozen=True)
class Train(Stage[Trained]):
    """The network's weights, starting from the champion's."""

    name = "train"
    result_type = Trained

    prepared: StageRecord[Prepared]
    model: ModelSettings
    training: TrainingConfig
    held_out: HeldOut
    mask_seen: bool | Names
    limits: PrepareSettings
    event_types: EventTypeSettings
    champion: RegisteredModel | None
    locations: RunLocations
    engine: EngineSettings = field(default=LOCAL, metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Train":
        """See `Stage`."""
        return cls(
            done[Prepare],
            settings.model,
            settings.train,
            held_out_events(settings, locations.run_date),
            settings.evaluate.mask_seen,
            settings.prepare,
            settings.event_types,
            champion_before(locations) if settings.train.warm_start else None,
            locations,
            settings.engine,
        )

    @classmethod
    def is_needed(cls, done: RunResults) -> bool:
        """See `Stage`: a run that is held already trains nothing."""
        return is_challenged(done)

    @classmethod
    def check_settings(
        cls, settings: Settings, locations: RunLocations, done: RunResults, *, whole_run: bool
    ) -> None:
        """See `Stage`: what evaluation and scoring would refuse after the hours of training.

        Raises:
            ConfigError: they ask for more items than there are, none is left to recommend, a
                condition on items cannot be used, or the provider of scoring cannot work here.
            InputError: a file that decides what is recommended cannot be read.
            SchemaError: its ids are of another kind than the items', or its columns cannot be used.
        """
        prepared = done[Prepare].result
        check_topk(settings.evaluate, prepared.n_items)
        if whole_run:
            days = settings.score.retire_after_days
            retired_before = days_before(locations.run_date, days, settings.time_zone)
            check_scoring(
                prepared,
                settings.export,
                settings.score,
                retired_before,
                settings.items.path,
                settings.items.similar_by,
                RunDay(locations.run_date, settings.time_zone),
                settings.resources,
                settings.users.path,
            )

    def run(self) -> Trained:
        """See `Stage`."""
        from pipeline.training.train import train

        return train(
            self.prepared.result,
            self.model,
            self.training,
            self.held_out,
            self.mask_seen,
            self.limits,
            self.event_types,
            self.champion,
            self.locations,
            engine=self.engine,
        )

    def is_intact(self, result: Trained) -> bool:
        """See `Stage`; records of earlier versions have no hashes."""
        hashes = result.content_hashes
        try:
            return bool(hashes) and all(
                content_hash(result.folder / name) == expected for name, expected in hashes.items()
            )
        except FileNotFoundError:
            return False

    def scratch(self) -> Path:
        """See `Stage`."""
        return self.locations.training


@dataclass(frozen=True)
class Evaluate(Stage[Evaluated]):
    """Held-out metrics of the model, of the champion and of two baselines."""

    name = "evaluate"
    code_version = 2
    result_type = Evaluated

    prepared: StageRecord[Prepared]
    trained: StageRecord[Trained]
    model: ModelSettings
    training: TrainingConfig
    evaluation: EvaluateSettings
    held_out: HeldOut
    limits: PrepareSettings
    inputs: Names
    champion: RegisteredModel | None
    locations: RunLocations
    engine: EngineSettings = field(default=LOCAL, metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Evaluate":
        """See `Stage`."""
        return cls(
            done[Prepare],
            done[Train],
            settings.model,
            settings.train,
            settings.evaluate,
            held_out_events(settings, locations.run_date),
            settings.prepare,
            settings.event_types.inputs,
            champion_before(locations),
            locations,
            settings.engine,
        )

    @classmethod
    def is_needed(cls, done: RunResults) -> bool:
        """See `Stage`: a run that is held already trains nothing."""
        return is_challenged(done)

    def run(self) -> Evaluated:
        """See `Stage`."""
        from pipeline.evaluation.evaluate import evaluate

        champion = local_bundle(self.locations, self.champion) if self.champion else None
        with work_progress("evaluating", "users") as progress:
            return evaluate(
                self.prepared.result,
                self.trained.result,
                self.model,
                self.training,
                self.evaluation,
                self.held_out,
                self.limits,
                self.inputs,
                champion,
                engine=self.engine,
                progress=progress,
            )


@dataclass(frozen=True)
class Export(Stage[Exported]):
    """The ONNX bundle, checked against PyTorch."""

    name = "export"
    result_type = Exported

    prepared: StageRecord[Prepared]
    trained: StageRecord[Trained]
    evaluated: StageRecord[Evaluated]
    model: ModelSettings
    limits: ExportSettings
    mask_seen: bool | Names
    inputs: Names
    locations: RunLocations
    provenance: dict[str, Any] = field(metadata=NOT_IN_KEY)
    training: TrainingConfig = field(metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Export":
        """See `Stage`."""
        return cls(
            done[Prepare],
            done[Train],
            done[Evaluate],
            settings.model,
            settings.export,
            settings.evaluate.mask_seen,
            settings.event_types.inputs,
            locations,
            settings.model_dump(mode="json"),
            settings.train,
        )

    @classmethod
    def is_needed(cls, done: RunResults) -> bool:
        """See `Stage`: a run that is held already trains nothing."""
        return is_challenged(done)

    def run(self) -> Exported:
        """See `Stage`."""
        from pipeline.training.export import export

        return export(
            self.prepared.result,
            self.trained.result,
            self.evaluated.result,
            self.model,
            self.limits,
            self.mask_seen,
            self.inputs,
            self.locations,
            self.provenance,
            self.training.threads,
        )

    def is_intact(self, result: Exported) -> bool:
        """See `Stage`; a bundle in a store is there once its description is."""
        if not has_every_file(result.bundle):
            return False
        folder = self.locations.warehouse.models(result.model_version)
        return not isinstance(folder, StoreFolder) or DESCRIPTION in folder.names()


def is_challenged(done: RunResults) -> bool:
    """Whether a run trains a model that may replace the champion: nothing has held it so far."""
    return not done[CheckData].result.held_by and done.unfit is None
