"""The seven stages of a run: what each is given, and what it calls.

What a stage calls is imported when it runs, so that a look at the records loads no PyTorch.
"""

import shutil
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from model.config import TrainingConfig
from model.cores import Threads
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.description import DESCRIPTION
from pipeline.bundles.registry import RegisteredModel, champion_before, register_champion
from pipeline.config.sections import (
    EvaluateSettings,
    ExportSettings,
    LogSettings,
    ModelSettings,
    PrepareSettings,
    ScoreSettings,
)
from pipeline.config.settings import Settings
from pipeline.data.held_out import HeldOut, held_out_events
from pipeline.dates import run_end
from pipeline.errors import ResumeError
from pipeline.evaluation.protocol import check_topk
from pipeline.logs.id_lists import id_list_hash
from pipeline.logs.log_files import LogFile, list_log_files
from pipeline.results import Evaluated, Exported, Ingested, Prepared, Published, Scored, Trained
from pipeline.runner.cache import NOT_IN_KEY, RunResults, Stage, StageRecord, hash_of
from pipeline.runner.scoring_checks import check_scoring
from pipeline.schema import INTERACTIONS, RECOMMENDATIONS, VOCABULARY
from pipeline.scoring.manifest import intact, read_manifest
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.progress import scoring_progress
from pipeline.scoring.run import score_histories
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import StoreFolder, open_folder
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.tables import has_table


@dataclass(frozen=True)
class Ingest(Stage[Ingested]):
    """New log files into the warehouse; bad rows into quarantine."""

    name = "ingest"
    result_type = Ingested

    # Listed before the stage runs: a file that arrives meanwhile makes it run again next time.
    files: tuple[LogFile, ...]
    logs: LogSettings
    locations: RunLocations
    time_zone: str
    read_all: bool = field(default=False, metadata=NOT_IN_KEY)  # known files too

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Ingest":
        """See `Stage`."""
        files = tuple(list_log_files(settings.logs.path))
        return cls(files, settings.logs, locations, settings.time_zone)

    def run(self) -> Ingested:
        """See `Stage`."""
        from pipeline.data.ingest import ingest

        return ingest(self.files, self.logs, self.locations, self.time_zone, self.read_all)

    def forced(self) -> "Ingest":
        """See `Stage`: rows that the tables lost unnoticed are read again."""
        return replace(self, read_all=True)

    def is_intact(self, result: Ingested) -> bool:
        """See `Stage`."""
        table = self.locations.warehouse.table(INTERACTIONS)
        return has_table(table, result.interactions_id, result.interactions_version)

    def output_key(self, result: Ingested) -> str:
        """See `Stage`; log files without news change nothing for the later stages."""
        return hash_of([result.interactions_id, result.interactions_version])


@dataclass(frozen=True)
class Prepare(Stage[Prepared]):
    """One sequence per user, and the vocabulary."""

    name = "prepare"
    result_type = Prepared

    ingested: StageRecord[Ingested]
    limits: PrepareSettings
    locations: RunLocations
    time_zone: str

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Prepare":
        """See `Stage`."""
        return cls(done[Ingest], settings.prepare, locations, settings.time_zone)

    def run(self) -> Prepared:
        """See `Stage`."""
        from pipeline.data.prepare import prepare

        return prepare(self.ingested.result, self.limits, self.locations, self.time_zone)

    def is_intact(self, result: Prepared) -> bool:
        """See `Stage`."""
        from pipeline.data.prepare import prepared_hash

        vocabulary = self.locations.warehouse.table(VOCABULARY)
        try:
            same_files = prepared_hash(result.folder) == result.content_hash
        except FileNotFoundError:
            return False
        return same_files and has_table(vocabulary, result.vocabulary_id)


@dataclass(frozen=True)
class Train(Stage[Trained]):
    """The network's weights, starting from the champion's."""

    name = "train"
    result_type = Trained

    prepared: StageRecord[Prepared]
    model: ModelSettings
    training: TrainingConfig
    held_out: HeldOut
    mask_seen: bool
    champion: RegisteredModel | None
    locations: RunLocations

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Train":
        """See `Stage`."""
        return cls(
            done[Prepare],
            settings.model,
            settings.train,
            _held_out(settings, locations),
            settings.evaluate.mask_seen,
            champion_before(locations) if settings.train.warm_start else None,
            locations,
        )

    @classmethod
    def check_settings(cls, settings: Settings, done: RunResults, *, whole_run: bool) -> None:
        """See `Stage`: what evaluation and scoring would refuse after the hours of training.

        Raises:
            ConfigError: they ask for more items than there are, none is left to recommend, or
                the provider of scoring cannot work here.
            InputError: a file of ids cannot be read.
            SchemaError: its ids are of another kind than the items'.
        """
        prepared = done[Prepare].result
        check_topk(settings.evaluate, prepared.n_items)
        if whole_run:
            check_scoring(prepared, settings.export, settings.score)

    def run(self) -> Trained:
        """See `Stage`."""
        from pipeline.training.train import train

        return train(
            self.prepared.result,
            self.model,
            self.training,
            self.held_out,
            self.mask_seen,
            self.champion,
            self.locations,
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
    """Held-out metrics of the model and of two baselines."""

    name = "evaluate"
    result_type = Evaluated

    prepared: StageRecord[Prepared]
    trained: StageRecord[Trained]
    model: ModelSettings
    training: TrainingConfig
    evaluation: EvaluateSettings
    held_out: HeldOut

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Evaluate":
        """See `Stage`."""
        return cls(
            done[Prepare],
            done[Train],
            settings.model,
            settings.train,
            settings.evaluate,
            _held_out(settings, locations),
        )

    def run(self) -> Evaluated:
        """See `Stage`."""
        from pipeline.evaluation.evaluate import evaluate

        return evaluate(
            self.prepared.result,
            self.trained.result,
            self.model,
            self.training,
            self.evaluation,
            self.held_out,
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
    mask_seen: bool
    locations: RunLocations
    provenance: dict[str, Any] = field(metadata=NOT_IN_KEY)
    threads: Threads = field(metadata=NOT_IN_KEY)

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
            locations,
            settings.model_dump(mode="json"),
            settings.train.threads,
        )

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
            self.locations,
            self.provenance,
            self.threads,
        )

    def is_intact(self, result: Exported) -> bool:
        """See `Stage`; the bundle on this machine is looked for with the record."""
        folder = self.locations.warehouse.models(result.model_version)
        return not isinstance(folder, StoreFolder) or DESCRIPTION in folder.names()


@dataclass(frozen=True)
class Score(Stage[Scored]):
    """Recommendations for every user, in parts."""

    name = "score"
    result_type = Scored

    prepared: StageRecord[Prepared]
    exported: StageRecord[Exported]
    score: ScoreSettings
    id_lists: tuple[str, ...]  # content hashes of the allow and deny files
    active_since: datetime | None  # only users with an event from then on
    locations: RunLocations

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Score":
        """See `Stage`."""
        lists = (settings.score.allow, settings.score.deny)
        days, since = settings.score.active_within_days, None
        if days is not None:
            since = run_end(locations.run_date - timedelta(days=days), settings.time_zone)
        return cls(
            done[Prepare],
            done[Export],
            settings.score,
            tuple(id_list_hash(path) for path in lists if path),
            since,
            locations,
        )

    def run(self) -> Scored:
        """See `Stage`; parts of a run that was cut short are kept."""
        prepared = self.prepared.result
        run = partial(
            score_histories,
            PreparedHistories(prepared.folder, self.active_since),
            Bundle.load(self.exported.result.bundle),
            self.locations.parts,
            self.score,
            run_date=self.locations.run_date,
            resume_inputs={"prepared": prepared.content_hash},
            cache=self.locations.tensorrt,
        )
        with scoring_progress() as progress:
            try:
                return run(resume=True, progress=progress)
            except ResumeError:  # of another model, input or settings, or damaged
                shutil.rmtree(self.locations.parts)
                return run(progress=progress)

    def is_intact(self, result: Scored) -> bool:
        """See `Stage`."""
        folder = open_folder(result.folder)
        try:
            manifest = read_manifest(folder)
        except (ResumeError, OSError):
            return False
        return manifest.complete and intact(manifest, folder) == manifest

    def scratch(self) -> Path:
        """See `Stage`."""
        return self.locations.parts


@dataclass(frozen=True)
class Publish(Stage[Published]):
    """The run date's partition of the recommendations; then the model becomes the champion."""

    name = "publish"
    result_type = Published

    exported: StageRecord[Exported]
    scored: StageRecord[Scored]
    locations: RunLocations

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Publish":
        """See `Stage`."""
        return cls(done[Export], done[Score], locations)

    def run(self) -> Published:
        """See `Stage`."""
        from pipeline.publishing.publish import publish

        published = publish(self.scored.result, self.locations)
        exported = self.exported.result
        register_champion(self.locations, exported.bundle, exported.model_version)
        return published

    def is_intact(self, result: Published) -> bool:
        """See `Stage`."""
        table = self.locations.warehouse.table(RECOMMENDATIONS)
        return has_table(table, result.table_id, result.version)


STAGES: tuple[type[Stage[Any]], ...] = (Ingest, Prepare, Train, Evaluate, Export, Score, Publish)


def stage_named(name: str) -> type[Stage[Any]]:
    """The stage of a name, as in ``fearec NAME``."""
    return next(stage for stage in STAGES if stage.name == name)


def _held_out(settings: Settings, locations: RunLocations) -> HeldOut:
    return held_out_events(settings.evaluate, locations.run_date, settings.time_zone)
