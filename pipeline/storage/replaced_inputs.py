"""The check that an output file would replace nothing of what its command reads."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.storage.folders import is_uri, open_folder


def check_replaces_no_input(
    output: str | Path, option: str, inputs: Iterable[str | Path | None]
) -> None:
    """Check that a file to write is no input, whatever the spelling of the paths, nor lies in one.

    Args:
        output: The path or URI of the file.
        option: What names it, for the error.
        inputs: The paths and URIs of the command's inputs, files or folders; None for none.

    Raises:
        ConfigError: it would replace an input, or a file of one; or a URI is not usable.
    """
    written = open_folder(output)
    for path in inputs:
        if path is None or _store(path) != _store(output):
            continue  # opening a store's folder may need the network
        if open_folder(path).holds(written.filesystem, written.root):
            raise ConfigError(
                "the output would replace an input",
                option,
                expected="a file that the command does not read",
                found=f"{output}, where {path} is read",
                remedy="Give another file.",
            )


def _store(path: str | Path) -> str:
    """The scheme of a URI; empty for what is on a local disk."""
    scheme = str(path).split(":", 1)[0].lower() if is_uri(str(path)) else ""
    return "" if scheme == "file" else scheme
