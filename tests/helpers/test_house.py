"""The repository's own rules: what is a finding, and what is none."""

from pathlib import Path

from tests.helpers import house


def write(root: Path, **sources: str) -> list[str]:
    """Files by their paths with `__` for `/`, and `.py` at their end."""
    paths = []
    for name, source in sources.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        paths.append(path.relative_to(root).as_posix())
    return paths


def found(root: Path, paths: list[str]) -> list[str]:
    """Findings, without those of exceptions that a made-up repository cannot need."""
    return [line for line in house.findings(root, paths) if "take it out" not in line]


def test_two_public_classes_of_one_name(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        model__a="class Batch:\n    class Config: ...\nclass _Own: ...\n",
        pipeline__b="\nclass Batch:\n    class Config: ...\nclass _Own: ...\n",
        flows__c="def f():\n    class Batch: ...\ntext = '''\nclass Batch: ...\n'''\n",
        tests__d="class Batch: ...\n",
    )
    assert found(tmp_path, paths) == [
        "pipeline/b.py:2: class Batch has the name of the class at model/a.py:1"
    ]


def test_long_modules_and_exceptions_without_need() -> None:
    modules = {"model/short.py": "x = 1\n" * 300, "model/long.py": "x = 1\n" * 301}
    assert list(house.long_modules(modules, {})) == ["model/long.py:301: 301 lines, more than 300"]
    assert list(house.long_modules(modules, {"model/long.py": "a reason"})) == []
    unneeded = {"model/long.py": "", "model/short.py": "", "model/gone.py": ""}
    assert [line.split(":")[0] for line in house.long_modules(modules, unneeded)] == [
        "model/gone.py",
        "model/short.py",
    ]


def test_names_of_libraries(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'own'\ndependencies = ['Scoring-Lib[x]>=2; python_version > \"3\"']\n"
        "[project.optional-dependencies]\nnightly = ['deltalake>=1']\ndev = ['own[nightly]']\n"
    )
    paths = write(
        tmp_path,
        model__onnx="",
        model__own="",
        model__onnx_graphs="def f():\n    from onnx.helper import make_node\n    import lib.part",
        pipeline__deltalake__tables="from . import lib",
        pipeline__scoring_lib="",
        flows__lib="from model.own import x",
        flows__json="",
        flows__ray="",
        tests__onnx="",
    )
    assert found(tmp_path, paths) == [
        "flows/json.py: named like the library json",
        "flows/lib.py: named like the library lib",
        "flows/ray.py: named like the library ray",
        "model/onnx.py: named like the library onnx",
        "pipeline/deltalake: named like the library deltalake",
        "pipeline/scoring_lib.py: named like the library scoring_lib",
    ]


def test_an_exception_for_a_name_has_to_be_needed() -> None:
    excepted = {"model/onnx.py": "a reason", "model/gone.py": "none"}
    assert list(house.library_names(["model/onnx.py"], {"onnx"}, excepted)) == [
        "model/gone.py: not named like a library: take it out of LIBRARY_NAMES"
    ]


def test_links_that_lead_nowhere() -> None:
    readme = (
        "# One `thing`\n[a](#one-thing) [b](#two) [c](https://x.y/#z) [d](docs/a.md#its-part)\n"
        "[e](docs/a.md#part) [f](docs) [g](gone.md) [h](docs/b.py)\n"
        "```\n# Two\n[i](nowhere)\n```\n"
    )
    documents = {"README.md": readme, "docs/a.md": "## Its part\n[j](../README.md) [k](a.md#x)\n"}
    found = house.dead_links(documents, ["README.md", "docs/a.md", "docs/b.py"])
    assert [line.split(": the link ")[1] for line in found] == [
        "#two leads nowhere",
        "docs/a.md#part leads nowhere",
        "gone.md leads nowhere",
        "a.md#x leads nowhere",
    ]


def test_addresses_of_machines_and_registries() -> None:
    home, index, temporary = "/" + "home/me/x", "https://py" + "pi.org/simple", "/" + "tmp/x"
    contents = {
        "README.md": f"\nSee {home}, {index} and {temporary}.",
        "sample.parquet": f"\xff\x00 file://{home}",
        "model/a.py": f"x = '{temporary}'",
        "tests/test_a.py": f"x = '{temporary}'; y = f'{{folder}}{home}'; z = 'here{home} ~{home}'",
        ".gitignore": "/" + "work/\n",
    }
    encoded = {path: content.encode("latin-1") for path, content in contents.items()}
    places = [line.split(": the")[0] for line in house.machine_addresses(encoded)]
    assert places == ["README.md:2", "README.md:2", "sample.parquet:1", "model/a.py:1"]


def test_only_files_of_the_repository_are_read() -> None:
    files = house.repository_files(house.ROOT)
    assert "tests/helpers/house.py" in files
    assert all((house.ROOT / path).is_file() for path in files)
    assert not any(path.startswith((".git/", ".venv/")) for path in files)
