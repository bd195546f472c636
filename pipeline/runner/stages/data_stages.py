"""The stages of the data: ingest, prepare and the checks.

What a stage calls is imported when it runs, so that a look at the records loads no PyTorch.
"""

from dataclasses import dataclass, field, replace

from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.sections import LogSettings, PrepareSettings
from pipeline.config.settings import Settings
from pipeline.limits import log_failures
from pipeline.logs.log_files import LogFile
from pipeline.results import Checked, Ingested, Prepared
from pipeline.runner.cache import NOT_IN_KEY, RunResults, Stage, StageRecord, hash_of, read_record
from pipeline.schema import EVENT_TYPES_FILE, INTERACTIONS, VOCABULARY
from pipeline.storage.locations import RunLocations, run_dates_in
from pipeline.storage.prepared_folder import prepared_hash
from pipeline.warehouse.log_table import list_logs
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
        files = tuple(list_logs(settings.logs.path))
        return cls(files, settings.logs, locations, settings.time_zone)

    def run(self) -> Ingested:
        """See `Stage`."""
        from pipeline.data.ingest import ingest

        return ingest(
            self.files,
            self.logs,
            self.locations,
            self.time_zone,
            self.read_all,
            self._is_recorded,
        )

    def _is_recorded(self, result: Ingested) -> bool:
        record = read_record(self.locations.record(self.name), Ingested)
        return record is not None and record.result == result

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
    code_version = 2  # histories in files of buckets
    result_type = Prepared

    ingested: StageRecord[Ingested]
    limits: PrepareSettings
    locations: RunLocations
    time_zone: str
    # Whether the types of events are written. `logs.event_type` enters the key of ingest.
    event_types: bool = field(default=False, metadata=NOT_IN_KEY)
    anew: bool = field(default=False, metadata=NOT_IN_KEY)  # not from earlier histories
    engine: EngineSettings = field(default=LOCAL, metadata=NOT_IN_KEY)

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "Prepare":
        """See `Stage`."""
        return cls(
            done[Ingest],
            settings.prepare,
            locations,
            settings.time_zone,
            settings.logs.event_type is not None,
            engine=settings.engine,
        )

    def run(self) -> Prepared:
        """See `Stage`."""
        from pipeline.data.prepare import prepare

        earlier = None if self.anew else _newest_prepared(self.locations)
        return prepare(
            self.ingested.result,
            self.limits,
            self.locations,
            self.time_zone,
            earlier,
            event_types=self.event_types,
            engine=self.engine,
        )

    def forced(self) -> "Prepare":
        """See `Stage`: everything is read again."""
        return replace(self, anew=True)

    def is_intact(self, result: Prepared) -> bool:
        """See `Stage`."""
        vocabulary = self.locations.warehouse.table(VOCABULARY)
        has_types = (result.folder / EVENT_TYPES_FILE).exists()
        if has_types != self.event_types:
            return False
        try:
            same_files = prepared_hash(result.folder) == result.content_hash
        except FileNotFoundError:
            return False
        return same_files and has_table(vocabulary, result.vocabulary_id)


def _newest_prepared(locations: RunLocations) -> Prepared | None:
    """What was prepared last for this run date or one before it."""
    for day in run_dates_in(locations.work_dir):
        if day <= locations.run_date:
            record = read_record(replace(locations, run_date=day).record(Prepare.name), Prepared)
            if record is not None:
                return record.result
    return None


@dataclass(frozen=True)
class CheckData(Stage[Checked]):
    """The checks of the data, which can hold the run before it trains."""

    name = "check"
    result_type = Checked

    ingested: StageRecord[Ingested]
    prepared: StageRecord[Prepared]
    checks: CheckSettings
    locations: RunLocations
    time_zone: str
    targets: tuple[str, ...] = ()  # types of the events that lists are measured by
    # Of the ingest: without good rows its `output_key` is as before.
    n_rows: tuple[int, int, int] = (0, 0, 0)  # read, filtered, quarantined
    overrule: bool = False  # what would hold the run only warns

    @classmethod
    def of(cls, settings: Settings, locations: RunLocations, done: RunResults) -> "CheckData":
        """See `Stage`."""
        read = done[Ingest].result
        return cls(
            done[Ingest],
            done[Prepare],
            settings.checks,
            locations,
            settings.time_zone,
            settings.event_types.targets,
            (read.rows, read.filtered, read.quarantined),
        )

    def run(self) -> Checked:
        """See `Stage`."""
        from pipeline.data.checks import check_data

        checked = check_data(
            self.ingested.result,
            self.prepared.result,
            self.checks,
            self.locations,
            self.time_zone,
            self.targets,
        )
        checked = checked.overruled() if self.overrule else checked
        log_failures(checked.checks)
        return checked

    def publish_forced(self) -> "CheckData":
        """See `Stage`."""
        return replace(self, overrule=True)

    def output_key(self, result: Checked) -> str:
        """See `Stage`; the gate depends on what holds the run alone."""
        return hash_of([result.held_by, result.objections])
