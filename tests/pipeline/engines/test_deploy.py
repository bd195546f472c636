"""The examples of clusters keep to the schemas of the programs that read them."""

import importlib.util
import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.config.engine_section import EngineSettings
from pipeline.version import fearec_version
from tests.helpers.house import ROOT

DEPLOY = ROOT / "pipeline/engines/deploy"


def example(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def ray_schema() -> Any:
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    path = Path(ray.origin).parent / "autoscaler" / "ray-schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def strict(schema: Any) -> Any:
    """The same schema, but a field it does not name is an error."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def kuberay_schema() -> Any:
    path = Path(__file__).with_name("kuberay_rayjob_1.6.2.json")
    schema = strict(json.loads(path.read_text(encoding="utf-8")))
    schema["properties"]["metadata"] = {"required": ["name"], "type": "object"}
    return schema


SCHEMAS = {"ray_cluster.yaml": ray_schema, "kuberay.yaml": kuberay_schema}


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_example_keeps_to_its_schema(name: str) -> None:
    jsonschema.validate(example(name), SCHEMAS[name]())


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("ray_cluster.yaml", ("max_worker",), 3),
        ("ray_cluster.yaml", ("available_node_types", "head", "resources", "CPU"), "16"),
        ("kuberay.yaml", ("spec", "entryPoint"), "fearec"),
        ("kuberay.yaml", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "16"),
        (
            "kuberay.yaml",
            (
                *("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"),
                *("containers", 0, "volumeMount"),
            ),
            [],
        ),
    ],
)
def test_its_schema_finds_a_wrong_name_or_type(
    name: str, place: tuple[str | int, ...], value: object
) -> None:
    content = example(name)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMAS[name]())


def test_the_examples_name_the_versions_of_this_project() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ray = re.search(r"^ray==(.+)$", constraints, re.MULTILINE)
    assert ray is not None
    for name in SCHEMAS:
        text = (DEPLOY / name).read_text(encoding="utf-8")
        assert set(re.findall(r"rayproject/ray:([\d.]+)-", text)) == {ray[1]}
        assert set(re.findall(r"fearec\[([\w,]+)\]==([\w.]+)", text)) == {
            ("nightly,ray", fearec_version())
        }
    assert {"nightly", "ray"} <= set(project["optional-dependencies"])
    assert example("kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == ray[1]


def test_workers_of_the_night_fit_on_the_machines_of_the_job() -> None:
    spec = example("kuberay.yaml")["spec"]
    words = shlex.split(spec["entrypoint"])
    chosen = dict(
        word.removeprefix("engine.").split("=")
        for flag, word in pairwise(words)
        if flag == "--set" and word.startswith("engine.")
    )
    settings = EngineSettings(kind="ray", **{key: int(value) for key, value in chosen.items()})
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert settings.num_cpus == int(worker["resources"]["requests"]["cpu"])
    assert settings.max_workers == group["maxReplicas"]
