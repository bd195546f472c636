"""Rules of this repository that no linter knows, checked by `make lint`.

`python -m tests.helpers.house` prints one line per finding: two public classes of one name, a
module that is too long, a module or folder named like a library, links in documents to files or
headings that are not there, and addresses of somebody's machine or of a package registry.
"""

import ast
import posixpath
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
PRODUCT = ("model", "pipeline", "flows")
MAX_LINES = 300

# Path to reason; an entry that is not needed (any longer) is a finding too.
LONG_MODULES = {}
LIBRARY_NAMES = {
    "model/recbole.py": "a name that outside programs import; RecBole is never imported beside it",
}

_MORE_LIBRARIES = {"ray", "recbole"}  # neither imported nor declared, but their names are taken
_ADDRESSES = (
    rb"(?<![\w.~$)}\]-])/(?:home|root|work|Users)/\w"
    rb"|py[p]i\.org|pythonh[o]sted\.org|registry\.npmj[s]"  # not to be found here itself
)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_MACHINE = re.compile(_ADDRESSES)
_MACHINE_OR_TEMPORARY = re.compile(_ADDRESSES + rb"|/tmp/")


def findings(root: Path, files: Iterable[str]) -> list[str]:
    """Every finding in some files, one line each.

    Args:
        root: Folder of the repository.
        files: Paths relative to it, with `/`.
    """
    files = sorted(files)
    modules = {
        path: (root / path).read_text(encoding="utf-8")
        for path in files
        if path.endswith(".py") and path.split("/")[0] in PRODUCT
    }
    trees = {path: ast.parse(source, path) for path, source in modules.items()}
    libraries = set(imported(trees.values())) | _MORE_LIBRARIES | sys.stdlib_module_names
    if (root / "pyproject.toml").exists():
        libraries |= declared((root / "pyproject.toml").read_text(encoding="utf-8"))
    documents = {
        path: (root / path).read_text(encoding="utf-8") for path in files if path.endswith(".md")
    }
    return [
        *shared_class_names(trees),
        *dead_links(documents, files),
        *long_modules(modules, LONG_MODULES),
        *library_names(modules, libraries - set(PRODUCT), LIBRARY_NAMES),
        *machine_addresses({path: (root / path).read_bytes() for path in files}),
    ]


def shared_class_names(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Public classes, at the top level of modules, whose name another one has."""
    places: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    for name, found in places.items():
        for first, second in pairwise(found):
            yield f"{second}: class {name} has the name of the class at {first}"


def dead_links(documents: Mapping[str, str], files: Iterable[str]) -> Iterator[str]:
    """Links in documents to files or headings of the repository that are not there."""
    texts = {path: _FENCED.sub("", text) for path, text in documents.items()}
    headings = {path: set(map(_anchor, _HEADING.findall(text))) for path, text in texts.items()}
    there = {*files, *(str(folder) for path in files for folder in PurePosixPath(path).parents)}
    for path, text in texts.items():
        for link in _LINK.findall(text):
            place, _, anchor = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), place))
            target = target if place else path
            is_there = target in there and (not anchor or anchor in headings.get(target, ()))
            if not is_there and not re.match(r"[a-z]+:", link):  # an address
                yield f"{path}: the link {link} leads nowhere"


def _anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def long_modules(modules: Mapping[str, str], excepted: Mapping[str, str]) -> Iterator[str]:
    """Modules of more than `MAX_LINES` lines, and exceptions that are not needed."""
    lengths = {path: len(source.splitlines()) for path, source in modules.items()}
    too_long = {path for path, length in lengths.items() if length > MAX_LINES}
    for path in sorted(too_long - set(excepted)):
        yield f"{path}:{MAX_LINES + 1}: {lengths[path]} lines, more than {MAX_LINES}"
    for path in sorted(set(excepted) - too_long):
        yield f"{path}: no more than {MAX_LINES} lines: take it out of LONG_MODULES"


def library_names(
    paths: Iterable[str], libraries: set[str], excepted: Mapping[str, str]
) -> Iterator[str]:
    """Modules and folders named like a library, and exceptions that are not needed.

    Prefect puts the folder of an entrypoint on `sys.path`, where such a module would be imported
    instead of the library.
    """
    folders = {str(folder) for path in paths for folder in Path(path).parents} - {"."}
    named = {
        place for place in {*paths, *folders} if Path(place).name.removesuffix(".py") in libraries
    }
    for place in sorted(named - set(excepted)):
        yield f"{place}: named like the library {Path(place).name.removesuffix('.py')}"
    for place in sorted(set(excepted) - named):
        yield f"{place}: not named like a library: take it out of LIBRARY_NAMES"


def machine_addresses(contents: Mapping[str, bytes]) -> Iterator[str]:
    """Absolute paths of a machine, and hosts of package registries; temporary paths in code."""
    for path, content in contents.items():
        product = path.split("/")[0] in PRODUCT
        for match in (_MACHINE_OR_TEMPORARY if product else _MACHINE).finditer(content):
            line = content.count(b"\n", 0, match.start()) + 1
            found = match.group().decode()
            yield f"{path}:{line}: the address {found} belongs to a machine or registry"


def imported(trees: Iterable[ast.Module]) -> Iterator[str]:
    """The top-level packages that modules import anywhere."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (name.name.split(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]


def declared(pyproject: str) -> set[str]:
    """The distributions that a `pyproject.toml` asks for, spelt as modules are."""
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = (re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements)
    return {name.lower().replace("-", "_") for name in names} - {project["name"]}


def repository_files(root: Path) -> list[str]:
    """Files that git tracks, or would if they were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path and (root / path).is_file()]


if __name__ == "__main__":
    found = findings(ROOT, repository_files(ROOT))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
