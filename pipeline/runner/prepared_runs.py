"""What a run date left: the model that serves it, and its prepared histories."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.registry import (
    RegisteredModel,
    local_bundle,
    nothing_published,
    read_registry,
)
from pipeline.bundles.versions import describe_version
from pipeline.config.seen_rule import SeenEvents
from pipeline.config.settings import Settings
from pipeline.errors import InputError
from pipeline.logs.id_lists import check_same_kind
from pipeline.results import Prepared
from pipeline.runner.cache import read_record
from pipeline.runner.run_checks import check_run_date
from pipeline.runner.stages import Prepare
from pipeline.schema import ITEM_ID
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.prepared_folder import prepared_hash


@dataclass(frozen=True)
class ServedRun:
    """A run date with a model. Get one with `served_run`.

    Attributes:
        locations: Of the run date.
        bundle: The model.
        items: Its items, V-1 rows in index order from 1.
    """

    locations: RunLocations
    bundle: Bundle
    items: pa.Table

    @property
    def item_ids(self) -> pa.Array:
        """(V-1,) the ids of items 1..V-1."""
        return self.items[ITEM_ID].combine_chunks()

    @contextmanager
    def held(self) -> Iterator[Path]:
        """Hold the run date; gives an empty local folder for temporary files.

        Raises:
            BusyError: another run works on the run date.
        """
        with self.locations.held(), scratch_folder(self.locations) as scratch:
            yield scratch

    @contextmanager
    def prepared(self, seen: SeenEvents | None = None) -> Iterator["PreparedRun"]:
        """Hold the run date, and give its prepared histories.

        Args:
            seen: Which events count as seen; None for all.

        Raises:
            ConfigError: types of events count as seen, and the histories have none of them.
            InputError: they are not on this machine.
            BusyError: another run works on the run date.
            SchemaError: their item ids are numbers and the model's are not, or the reverse.
        """
        if not self.locations.folder.exists():  # which the lock would create
            raise self._absent()
        with self.held() as scratch:
            record = read_record(self.locations.record(Prepare.name), Prepared)
            if record is None or not _is_whole(record.result):
                raise self._absent()
            inputs = self.bundle.description.input_types
            source = PreparedHistories(record.result.folder, None, seen, inputs)
            model = f"bundle {self.bundle.path}"
            check_same_kind(source.types.item, source.where, self.item_ids.type, model)
            with source.open(self.items, scratch) as opened:
                yield PreparedRun(
                    source.folder,
                    source.types.user,
                    opened.histories,
                    record.result.n_users,
                    scratch,
                )

    def _absent(self) -> InputError:
        day = self.locations.run_date
        return InputError(
            "there are no prepared histories of this run date",
            str(self.locations.prepared),
            remedy=f"Run `fearec ingest --date {day}` and `fearec prepare --date {day}` here first,"
            " or give another --date.",
        )


@dataclass(frozen=True)
class PreparedRun:
    """The prepared histories of a run date, for a model.

    Attributes:
        folder: The prepared folder.
        user_type: The type of the user ids.
        histories: Everybody's, in the bundle's indices, without items that it does not know; to
            be read once.
        n_users: The number of users.
        scratch: An empty local folder for temporary files.
    """

    folder: Path
    user_type: pa.DataType
    histories: Iterator[UserHistories]
    n_users: int
    scratch: Path


def served_run(settings: Settings, run_date: date | None, model_version: str | None) -> ServedRun:
    """A run date and its model.

    Args:
        settings: Whose warehouse and work folder.
        run_date: Default the newest that a model serves.
        model_version: Default the one that serves the run date.

    Raises:
        ConfigError: the run date is later than tomorrow.
        InputError: no model serves the run date, or there is no such version.
        BundleError: `champion.json` or the bundle cannot be read.
        StorageError: the store is away, or there is no room for a copy of the bundle.
    """
    if run_date is not None:
        check_run_date(settings, run_date, "--date")
    warehouse = Warehouse(settings.warehouse)
    registry = read_registry(warehouse)
    if registry is None:
        raise nothing_published(warehouse)
    day = run_date or registry.run_date
    model = registry.serving(day)
    if model_version is not None:
        version = describe_version(warehouse, model_version).model_version
        model = RegisteredModel(run_date=day, model_version=version, path=model_version)
    if model is None:
        raise InputError(
            "no model serves this run date",
            f"run date {day}",
            remedy="`fearec models list` shows which do; --model takes any version.",
        )
    locations = RunLocations.of(settings, day)
    bundle = Bundle.load(local_bundle(locations, model))
    return ServedRun(locations, bundle, bundle.items())


def _is_whole(prepared: Prepared) -> bool:
    try:
        return prepared_hash(prepared.folder) == prepared.content_hash
    except OSError:
        return False
