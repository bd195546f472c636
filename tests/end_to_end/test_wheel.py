"""The wheel holds every package, and scores where nothing but its own dependencies is installed."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.scoring.run import score
from tests.helpers.house import PRODUCT, ROOT, repository_files
from tests.helpers.scoring_cases import RUN_DATE

LOGS = ROOT / "sample_data" / "logs"
TOP_K = 10
EXTRAS = (
    "torch", "lightning", "onnx", "safetensors", "deltalake", "prefect", "optuna", "pytest",
    "jinja2", "matplotlib",
)  # fmt: skip


@pytest.fixture(scope="module")
def modules() -> list[str]:
    """The product's modules in git, as paths."""
    return [
        path
        for path in repository_files(ROOT)
        if path.split("/")[0] in PRODUCT and path.endswith(".py")
    ]


@pytest.fixture(scope="module")
def templates() -> list[str]:
    """The templates of reports in git, as paths."""
    return [path for path in repository_files(ROOT) if "/templates/" in path]


@pytest.fixture(scope="module")
def wheel(
    modules: list[str], templates: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Built from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in (*modules, *templates, "pyproject.toml", "README.md", "LICENSE"):
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / "source" / path)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    pip("wheel", *options, str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(
    scope="module", params=["linked", pytest.param("installed", marks=pytest.mark.slow)]
)
def environment(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A virtual environment with the wheel and what it depends on, without its extras.

    The dependencies are links to those installed here, or (slow) come from the package index.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    into = ["--python", str(folder / "bin/python"), "install", "--quiet"]
    if request.param == "installed":
        pip(*into, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
        return folder
    pip(*into, "--no-index", "--no-deps", str(wheel))
    (metadata,) = folder.glob("lib/*/site-packages/fearec-*.dist-info")
    packages = metadata.parent
    for needed in dependencies(Distribution.at(metadata)):
        for name in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(needed.locate_file(name))
    return folder


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def dependencies(of: Distribution) -> Iterator[Distribution]:
    """Everything that a distribution needs here, without its extras."""
    known: set[str] = set()
    waiting = [of]
    while waiting:
        for line in waiting.pop().requires or ():
            needed = Requirement(line)
            if needed.name in known or (
                needed.marker and not needed.marker.evaluate({"extra": ""})
            ):
                continue
            known.add(needed.name)
            waiting.append(distribution(needed.name))
            yield waiting[-1]


def run(environment: Path, *command: str, cwd: Path) -> str:
    """A program of the environment, where this repository is out of sight."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = str(environment / "bin" / command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_template(
    wheel: Path, modules: list[str], templates: list[str]
) -> None:
    assert "pipeline/reporting/templates/night.html" in templates
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted([*modules, *templates])


def test_the_environment_is_without_the_extras(environment: Path, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print(*filter(find_spec, {EXTRAS}))"
    assert run(environment, "python", "-c", code, cwd=tmp_path).split() == []


def test_fearec_score_scores_the_sample_logs(
    environment: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    logs = pq.read_table(LOGS)
    bundle = make_bundle(
        tmp_path / "bundle", item_ids=sorted(set(logs["item_id"].to_pylist()) - {None})
    )
    day = str(RUN_DATE)
    arguments = ["--model", str(bundle.path), "--output", "out", "--run-date", day]
    out = run(environment, "fearec-score", str(LOGS), *arguments, cwd=tmp_path)
    found = pq.read_table(tmp_path / "out")
    n_users = pc.count_distinct(logs["user_id"]).as_py()
    assert f"{n_users * TOP_K:,} rows in out" in out
    assert found.num_rows == n_users * TOP_K
    assert pc.unique(found["source"]).to_pylist() == ["model"]

    options = ScoreSettings(top_k=TOP_K, provider="cpu")
    here = tmp_path / "here"
    score(
        [str(LOGS)], bundle, here, options, logs=LogSettings(), run_date=RUN_DATE, time_zone="UTC"
    )
    expected = pq.read_table(here)
    same = [name for name in expected.column_names if name != "generated_at"]
    assert found.select(same).equals(expected.select(same))
