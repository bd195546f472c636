"""The stage that decides which model serves: gate."""

from dataclasses import dataclass, field, replace

from pipeline.bundles.registry import (
    RegisteredModel,
    champion_before,
    pinned,
    register_candidate,
)
from pipeline.config.guard_sections import GateSettings
from pipeline.config.settings import Settings
from pipeline.results import Checked, Evaluated, Exported, Gated
from pipeline.runner.cache import NOT_IN_KEY, RunResults, Stage, StageRecord, hash_of
from pipeline.runner.stages.data_stages import CheckData
from pipeline.runner.stages.model_stages import Evaluate, Export
from pipeline.storage.locations import RunLocations


@dataclass(frozen=True)
class Gate(Stage[Gated]):
    """The decision on which model serves: the run's own, or the champion."""

    name = "gate"
    result_type = Gated
    code_version = 2  # users without a history are no collapse of the lists

    checked: StageRecord[Checked]
    evaluated: StageRecord[Evaluated] | None  # None of a run that is held before
    exported: StageRecord[Exported] | None
    unfit: str | None  # why the run has no model to export
    gate: GateSettings
    champion: RegisteredModel | None
    pinned: RegisteredModel | None  # by hand, for this run date
    locations: RunLocations
    force_publish: bool = False
    overruled: RegisteredModel | None = field(default=None, metadata=NOT_IN_KEY)  # by --force

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Gate":
        """See `Stage`."""
        return cls(
            done[CheckData],
            done.get(Evaluate),
            done.get(Export),
            done.unfit,
            settings.gate,
            champion_before(locations),
            pinned(locations),
            locations,
        )

    def run(self) -> Gated:
        """See `Stage`."""
        from pipeline.bundles.gate import gate

        if self.exported is not None:
            register_candidate(self.locations, self.exported.result.model_version)
        gated = gate(
            self.checked.result,
            self.evaluated.result if self.evaluated else None,
            self.exported.result if self.exported else None,
            self.unfit,
            self.gate,
            self.champion,
            self.pinned,
            self.locations,
            force_publish=self.force_publish,
        )
        overruled = self.overruled.model_version if self.overruled else None
        return replace(gated, overruled=overruled)

    def publish_forced(self) -> "Gate":
        """See `Stage`: whatever a person chose before."""
        return replace(self.forced(), force_publish=True)

    def forced(self) -> "Gate":
        """See `Stage`: it decides afresh."""
        return replace(self, pinned=None, overruled=self.pinned or self.overruled)

    def output_key(self, result: Gated) -> str:
        """See `Stage`; the table depends on the model that serves."""
        return hash_of([result.decision, result.model_version])
