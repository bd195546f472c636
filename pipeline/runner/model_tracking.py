"""Runs and model versions logged to MLflow, beside the registry and never in its place."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pipeline.bundles.description import BundleDescription
from pipeline.bundles.registry import read_registry
from pipeline.bundles.versions import describe_version, leaves
from pipeline.config.registry_section import RegistrySettings
from pipeline.errors import first_line
from pipeline.results import Exported
from pipeline.runner.cache import RunResults
from pipeline.runner.run_log import results_key
from pipeline.runner.stages import Evaluate, Export, Gate
from pipeline.storage.locations import RunLocations, Warehouse

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_KEY = "fearec.results"  # the tag by which a run done again finds that it is there already
_VERSION = "fearec.model_version"
_LONGEST = 500  # characters of a parameter's value, as every tracking store takes


def track_run(settings: RegistrySettings, locations: RunLocations, results: RunResults) -> None:
    """Log a finished run and its model to MLflow, and move the aliases there.

    Whatever fails is a warning: the run is done.

    Args:
        settings: The server, and the names there; without a server nothing is done.
        locations: Of the run.
        results: Of its stages; a run that is logged with these is not logged again.
    """

    def track(client: "MlflowClient") -> None:
        _log_run(client, settings.mlflow_name, locations, results)
        _move_aliases(client, settings.mlflow_name, locations.warehouse)

    _attempt(settings, track, "has no record of this run")


def track_champion(settings: RegistrySettings, warehouse: Warehouse) -> None:
    """Move the aliases in MLflow after a champion was chosen by hand; what fails is a warning.

    Args:
        settings: The server, and the names there; without a server nothing is done.
        warehouse: Whose registry.
    """
    move = partial(_move_aliases, name=settings.mlflow_name, warehouse=warehouse)
    _attempt(settings, move, "goes by the champion before")


def _attempt(
    settings: RegistrySettings, what: "Callable[[MlflowClient], None]", failure: str
) -> None:
    """Do something on the server, where one is set; whatever fails is a warning."""
    uri = settings.mlflow_tracking_uri
    if uri is None:
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient

        what(MlflowClient(tracking_uri=uri, registry_uri=uri))
    except Exception as error:  # of MLflow, its database, its store or the network
        logger.warning("MLflow %s: %s", failure, first_line(error))


def _log_run(
    client: "MlflowClient", name: str, locations: RunLocations, results: RunResults
) -> None:
    key = results_key(results)
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    if client.search_runs([number], f"tags.`{_KEY}` = '{key}' and attributes.status = 'FINISHED'"):
        return
    gated = results[Gate].result
    tags = {
        "run_date": str(locations.run_date),
        "decision": gated.decision,
        _VERSION: gated.model_version,
        _KEY: key,
    }
    run = client.create_run(number, tags=tags, run_name=f"{locations.run_date} {gated.decision}")
    identity = run.info.run_id
    for record in results.records:
        client.log_metric(identity, f"seconds/{record.stage}", record.seconds)
    if evaluated := results.get(Evaluate):
        for who in ("model", "popularity", "co_occurrence"):
            for metric, value in getattr(evaluated.result, who).items():
                client.log_metric(identity, f"{who}/{metric.replace('@', '_at_')}", value)
    if exported := results.get(Export):
        description = describe_version(locations.warehouse, exported.result.model_version)
        _log_model(client, name, identity, exported.result, description)
    client.set_terminated(identity)


def _log_model(
    client: "MlflowClient",
    name: str,
    run: str,
    exported: Exported,
    description: BundleDescription,
) -> None:
    """Log a model's parameters, and its bundle as a new version, unless it has one already."""
    given = {"model": description.hyper_parameters, "train": description.settings.get("train", {})}
    for parameter, value in leaves(given):
        client.log_param(run, parameter, str(value)[:_LONGEST])
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    if _number_of(client, name, exported.model_version) is None:
        client.log_artifacts(run, str(exported.bundle), "bundle")
        client.create_model_version(
            name,
            source=f"{client.get_run(run).info.artifact_uri}/bundle",
            run_id=run,
            tags={_VERSION: exported.model_version},
        )


def _move_aliases(client: "MlflowClient", name: str, warehouse: Warehouse) -> None:
    """Give the aliases to the versions that have them in the registry, where MLflow knows them."""
    registry = read_registry(warehouse)
    if registry is None:
        return
    for alias, model in (("champion", registry), ("candidate", registry.candidate)):
        number = _number_of(client, name, model.model_version) if model else None
        if number is not None:
            client.set_registered_model_alias(name, alias, number)


def _number_of(client: "MlflowClient", name: str, model_version: str) -> str | None:
    """MLflow's own number of a model version."""
    found = client.search_model_versions(
        f"name = '{name}' and tag.`{_VERSION}` = '{model_version}'"
    )
    return str(found[0].version) if found else None
