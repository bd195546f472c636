"""A stand-in for MLflow: what its client keeps on a server, by the calls of the real one."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_TAG = re.compile(r"tags?\.`([^`]+)` = '([^']*)'")
_NAME = re.compile(r"name = '([^']*)'")
_KEY = re.compile(r"[\w\-. :/]+")  # the characters of a metric's or a parameter's name


@dataclass
class TrackedRun:
    """A run of an experiment."""

    experiment: str
    name: str
    tags: dict[str, str]
    status: str = "RUNNING"
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackedVersion:
    """A version of a registered model."""

    version: int
    source: str
    run_id: str
    tags: dict[str, str]


@dataclass
class TrackingServer:
    """What all clients of one server see."""

    uri: str
    experiments: list[str] = field(default_factory=list)
    runs: list[TrackedRun] = field(default_factory=list)
    models: dict[str, list[TrackedVersion]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)

    def client(self, *, tracking_uri: str, registry_uri: str) -> "TrackingClient":
        """In place of `mlflow.MlflowClient`."""
        assert (tracking_uri, registry_uri) == (self.uri, self.uri)
        return TrackingClient(self)

    def called(self, name: str, alias: str) -> TrackedVersion:
        """The version that an alias names."""
        number = self.aliases[name, alias]
        return next(each for each in self.models[name] if each.version == number)


class TrackingClient:
    """The calls of `mlflow.MlflowClient` that a run makes; they refuse what it refuses."""

    def __init__(self, server: TrackingServer) -> None:
        self._server = server

    def get_experiment_by_name(self, name: str) -> Any:
        if name not in self._server.experiments:
            return None
        return SimpleNamespace(experiment_id=self._experiment_id(name))

    def create_experiment(self, name: str) -> str:
        assert name not in self._server.experiments
        self._server.experiments.append(name)
        return self._experiment_id(name)

    def _experiment_id(self, name: str) -> str:
        return str(self._server.experiments.index(name))

    def search_runs(self, experiment_ids: list[str], filter_string: str) -> list[TrackedRun]:
        tag, value = _TAG.findall(filter_string)[0]
        assert filter_string.endswith(" and attributes.status = 'FINISHED'")
        return [
            run
            for run in self._server.runs
            if self._experiment_id(run.experiment) in experiment_ids
            and (run.tags.get(tag), run.status) == (value, "FINISHED")
        ]

    def create_run(self, experiment_id: str, *, tags: dict[str, str], run_name: str) -> Any:
        run = TrackedRun(self._server.experiments[int(experiment_id)], run_name, dict(tags))
        self._server.runs.append(run)
        return self.get_run(str(len(self._server.runs) - 1))

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(
            info=SimpleNamespace(run_id=run_id, artifact_uri=f"{self._server.uri}/{run_id}")
        )

    def log_metric(self, run_id: str, key: str, value: float) -> None:
        assert _KEY.fullmatch(key)
        self._at_work(run_id).metrics[key] = float(value)

    def log_param(self, run_id: str, key: str, value: str) -> None:
        assert _KEY.fullmatch(key)
        assert self._at_work(run_id).params.setdefault(key, value) == value

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str) -> None:
        files = {path.name for path in Path(local_dir).iterdir()}
        self._at_work(run_id).artifacts[artifact_path] = files

    def set_terminated(self, run_id: str) -> None:
        self._at_work(run_id).status = "FINISHED"

    def _at_work(self, run_id: str) -> TrackedRun:
        run = self._server.runs[int(run_id)]
        assert run.status == "RUNNING"
        return run

    def search_registered_models(self, filter_string: str) -> list[str]:
        (name,) = _NAME.findall(filter_string)
        return [each for each in self._server.models if each == name]

    def create_registered_model(self, name: str) -> None:
        assert name not in self._server.models
        self._server.models[name] = []

    def search_model_versions(self, filter_string: str) -> list[TrackedVersion]:
        (name,), ((tag, value),) = _NAME.findall(filter_string), _TAG.findall(filter_string)
        return [each for each in self._server.models.get(name, []) if each.tags.get(tag) == value]

    def create_model_version(
        self, name: str, source: str, run_id: str, tags: dict[str, str]
    ) -> None:
        versions = self._server.models[name]
        versions.append(TrackedVersion(len(versions) + 1, source, run_id, dict(tags)))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        assert int(version) in {each.version for each in self._server.models[name]}
        self._server.aliases[name, alias] = int(version)
