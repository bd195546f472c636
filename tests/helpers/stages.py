"""The stages called with whole settings, as a run calls them, but one at a time."""

from datetime import date
from pathlib import Path

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.registry import (
    RegisteredModel,
    champion_before,
    local_bundle,
    register_champion,
)
from pipeline.config.settings import Settings
from pipeline.data.forget import forget as forget_stage
from pipeline.data.held_out import held_out_events
from pipeline.data.ingest import ingest as ingest_stage
from pipeline.data.prepare import prepare as prepare_stage
from pipeline.results import (
    Evaluated,
    Exported,
    Forgotten,
    Ingested,
    Prepared,
    Published,
    Scored,
    Trained,
)
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.log_table import list_logs


def locations(settings: Settings, run_date: date = date(2026, 7, 1)) -> RunLocations:
    return RunLocations(
        Warehouse(settings.warehouse), settings.work_dir, run_date, settings.resources
    )


def table_uri(settings: Settings, name: str) -> str:
    return Warehouse(settings.warehouse).table(name)


def ingest(
    settings: Settings, run_date: date, *, force: bool = False, recorded: bool = True
) -> Ingested:
    files, given = list_logs(settings.logs.path), locations(settings, run_date)
    return ingest_stage(
        files, settings.logs, given, settings.time_zone, force, is_recorded=lambda _: recorded
    )


def forget(settings: Settings, run_date: date, pattern: str) -> Forgotten:
    files, given = list_logs(settings.logs.path), locations(settings, run_date)
    return forget_stage(files, settings.logs, given, settings.time_zone, pattern)


def prepare(
    settings: Settings, run_date: date, ingested: Ingested, earlier: Prepared | None = None
) -> Prepared:
    given = locations(settings, run_date)
    return prepare_stage(
        ingested,
        settings.prepare,
        given,
        settings.time_zone,
        earlier,
        event_types=settings.logs.event_type is not None,
        engine=settings.engine,
    )


def train(settings: Settings, run_date: date, prepared: Prepared) -> Trained:
    from pipeline.training.train import train as train_stage

    given = locations(settings, run_date)
    return train_stage(
        prepared,
        settings.model,
        settings.train,
        held_out_events(settings, run_date),
        settings.evaluate.mask_seen,
        settings.prepare,
        settings.event_types,
        champion_before(given) if settings.train.warm_start else None,
        given,
        engine=settings.engine,
    )


def evaluate(
    settings: Settings,
    run_date: date,
    prepared: Prepared,
    trained: Trained,
    champion: Path | None = None,
) -> Evaluated:
    from pipeline.evaluation.evaluate import evaluate as evaluate_stage

    return evaluate_stage(
        prepared,
        trained,
        settings.model,
        settings.train,
        settings.evaluate,
        held_out_events(settings, run_date),
        settings.prepare,
        settings.event_types.inputs,
        champion,
        engine=settings.engine,
    )


def evaluate_bundle(
    settings: Settings, run_date: date, prepared: Prepared, bundle: Bundle
) -> Evaluated:
    from pipeline.evaluation.evaluate_bundle import evaluate_bundle as evaluate_stage

    held_out = held_out_events(settings, run_date)
    provider = settings.score.provider
    return evaluate_stage(bundle, prepared, settings.train, settings.evaluate, held_out, provider)


def export(
    settings: Settings, run_date: date, prepared: Prepared, trained: Trained, evaluated: Evaluated
) -> Exported:
    from pipeline.training.export import export as export_stage

    return export_stage(
        prepared,
        trained,
        evaluated,
        settings.model,
        settings.export,
        settings.evaluate.mask_seen,
        settings.event_types.inputs,
        locations(settings, run_date),
        settings.model_dump(mode="json"),
    )


def publish(settings: Settings, run_date: date, scored: Scored) -> Published:
    from pipeline.publishing.publish import publish as publish_stage

    return publish_stage(scored, locations(settings, run_date))


def read_champion(settings: Settings, *, before: date) -> Path | None:
    given = locations(settings, before)
    champion = champion_before(given)
    return champion and local_bundle(given, champion)


def set_champion(settings: Settings, run_date: date, bundle: Path, model_version: str) -> None:
    model = RegisteredModel(run_date=run_date, model_version=model_version, path=bundle.name)
    register_champion(locations(settings, run_date), model)
