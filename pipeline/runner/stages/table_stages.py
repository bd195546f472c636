"""The stages of the recommendations: score and publish.

What a stage calls is imported when it runs, so that a look at the records loads no PyTorch.
"""

import shutil
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from pydantic_core import to_jsonable_python

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.registry import RegisteredModel, read_registry, register_champion
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import Settings
from pipeline.dates import RunDay, days_before
from pipeline.errors import ResumeError
from pipeline.limits import log_failures
from pipeline.progress import work_progress
from pipeline.results import Gated, Prepared, Published, Scored
from pipeline.runner.cache import NOT_IN_KEY, RunResults, Stage, StageRecord, cache_key, hash_of
from pipeline.runner.stages.data_stages import Prepare
from pipeline.runner.stages.gate_stage import Gate
from pipeline.scoring.manifest import intact, read_manifest
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.resume_keys import rule_file_hashes
from pipeline.scoring.run import score_histories
from pipeline.storage.folders import open_folder
from pipeline.storage.locations import RunLocations

# Counts in `Scored` that results of earlier versions lack: left out of keys where there are none.
_LATER_COUNTS = (
    "rules",
    "segments",
    "new_items",
    "n_recent",
    "candidates",
    "exclude",
    "absent_types",
)


@dataclass(frozen=True)
class Score(Stage[Scored]):
    """Recommendations for every user, in parts."""

    name = "score"
    result_type = Scored

    prepared: StageRecord[Prepared]
    gated: StageRecord[Gated]
    score: ScoreSettings
    # Content hashes of the files of ids, also those of segments, of users and items and, where
    # needed, of the tables of items and users.
    id_lists: tuple[str, ...]
    active_since: datetime | None  # only users with an event from then on
    retired_before: datetime | None  # no items without an event from then on
    locations: RunLocations
    similar_by: tuple[str, ...]  # where a rule needs it
    items_table: str | None = field(metadata=NOT_IN_KEY)
    users_table: str | None = field(metadata=NOT_IN_KEY)
    time_zone: str = field(metadata=NOT_IN_KEY)  # it is in the keys of the stages before
    engine: EngineSettings = field(default=LOCAL, metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Score":
        """See `Stage`."""
        hashes = rule_file_hashes(settings.score, settings.items.path, settings.users.path)
        return cls(
            done[Prepare],
            done[Gate],
            settings.score,
            tuple(hashes.values()),
            _days_before(settings.score.active_within_days, settings, locations),
            _days_before(settings.score.retire_after_days, settings, locations),
            locations,
            settings.items.similar_by if settings.score.new_items else (),
            settings.items.path,
            settings.users.path,
            settings.time_zone,
            settings.engine,
        )

    def run(self) -> Scored:
        """See `Stage`; parts of a run that was cut short are kept."""
        prepared = self.prepared.result
        seen = self.score.seen_on(RunDay(self.locations.run_date, self.time_zone))
        bundle = Bundle.load(self.gated.result.bundle)
        inputs = bundle.description.input_types
        run = partial(
            score_histories,
            PreparedHistories(prepared.folder, self.active_since, seen, inputs),
            bundle,
            self.locations.parts,
            self.score,
            run_date=self.locations.run_date,
            time_zone=self.time_zone,
            resume_inputs={"prepared": prepared.content_hash},
            resume_settings={"time_zone": self.time_zone},
            retired_before=self.retired_before,
            items_table=self.items_table,
            users_table=self.users_table,
            similar_by=self.similar_by,
            cache=self.locations.tensorrt,
            resources=self.locations.resources,
            engine=self.engine,
        )
        with work_progress("scoring", "users") as progress:
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

    def output_key(self, result: Scored) -> str:
        """See `Stage`; results of earlier versions know fewer rules."""
        values = to_jsonable_python(result)
        for name in _LATER_COUNTS:
            if not values[name]:
                del values[name]
        return hash_of([cache_key(self), values])

    def scratch(self) -> Path:
        """See `Stage`."""
        return self.locations.parts


@dataclass(frozen=True)
class Publish(Stage[Published]):
    """The run date's partition of the recommendations, checked, and the registry's entry for it."""

    name = "publish"
    result_type = Published

    prepared: StageRecord[Prepared]
    gated: StageRecord[Gated]
    scored: StageRecord[Scored]
    score: ScoreSettings
    active_since: datetime | None
    retired_before: datetime | None
    checks: CheckSettings
    locations: RunLocations
    similar_by: tuple[str, ...]
    items_table: str | None = field(metadata=NOT_IN_KEY)
    users_table: str | None = field(metadata=NOT_IN_KEY)
    time_zone: str = field(metadata=NOT_IN_KEY)
    # What is published already is not checked again without it.
    overrule: bool = field(default=False, metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Publish":
        """See `Stage`."""
        return cls(
            done[Prepare],
            done[Gate],
            done[Score],
            settings.score,
            _days_before(settings.score.active_within_days, settings, locations),
            _days_before(settings.score.retire_after_days, settings, locations),
            settings.checks,
            locations,
            settings.items.similar_by if settings.score.new_items else (),
            settings.items.path,
            settings.users.path,
            settings.time_zone,
        )

    def run(self) -> Published:
        """See `Stage`: nothing is written unless the checks let it pass."""
        from pipeline.publishing.checks import Served, check_tables
        from pipeline.publishing.publish import publish

        gated, scored = self.gated.result, self.scored.result
        served = Served(
            self.prepared.result,
            gated.bundle,
            self.score,
            self.active_since,
            self.retired_before,
            self.items_table,
            self.similar_by,
            RunDay(self.locations.run_date, self.time_zone),
            self.users_table,
        )
        checks = check_tables(scored, served, self.checks, self.locations, overrule=self.overrule)
        log_failures(checks)
        published = replace(publish(scored, self.locations), checks=checks)
        serving = RegisteredModel(
            run_date=self.locations.run_date,
            model_version=gated.model_version,
            path=gated.bundle.name,
            decision=gated.decision,
        )
        register_champion(
            self.locations, serving, candidate=gated.candidate, overruled=gated.overruled
        )
        return published

    def publish_forced(self) -> "Publish":
        """See `Stage`."""
        return replace(self, overrule=True)

    def is_intact(self, result: Published) -> bool:
        """See `Stage`: another run of the date may have published since."""
        from pipeline.publishing.publish import is_published

        champion = read_registry(self.locations.warehouse)
        serving = champion.serving(self.locations.run_date) if champion else None
        is_registered = serving and serving.model_version == self.gated.result.model_version
        return bool(is_registered) and is_published(result, self.scored.result, self.locations)


def _days_before(days: int | None, settings: Settings, locations: RunLocations) -> datetime | None:
    return days_before(locations.run_date, days, settings.time_zone)
