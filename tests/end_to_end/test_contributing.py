"""CONTRIBUTING.md's tree names every folder and module."""

import re

from tests.helpers.house import PRODUCT, ROOT, repository_files


def tree() -> dict[str, str]:
    """Each folder of the tree, and what is said of it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    described: dict[str, str] = {}
    parents: list[str] = []
    folder = ""
    for line in text.strip("\n").splitlines():
        if entry := re.match(r"( *)([\w./]+)/ +\S", line[:17] + "x"):
            depth = len(entry[1]) // 2
            parents = [*parents[:depth], entry[2]]
            folder = "/".join(name for name in parents if name != ".")
        described[folder] = described.get(folder, "") + line[17:] + "\n"
    return described


def test_every_module_is_named_beside_its_folder() -> None:
    described = tree()
    modules = [path for path in repository_files(ROOT) if path.endswith(".py")]
    missing = []
    for path in modules:
        folder, _, name = path.rpartition("/")
        if folder.split("/")[0] not in PRODUCT or name == "__init__.py":
            continue
        if not re.search(rf"\b{name.removesuffix('.py')}\b", described.get(folder, "")):
            missing.append(path)
    assert missing == []


def test_every_path_that_a_document_names_exists() -> None:
    documents = [path for path in repository_files(ROOT) if path.endswith(".md")]
    gone = []
    for document in documents:
        if document == "CHANGELOG.md":  # which names what was
            continue
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(r"`((?:model|pipeline|flows|tests|sample_data)/[\w./-]+)`", text):
            if not (ROOT / name).exists():
                gone.append(f"{document}: {name}")
        for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text):
            if not (ROOT / document).parent.joinpath(link).exists():
                gone.append(f"{document}: {link}")
    assert gone == []
