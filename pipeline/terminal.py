"""What commands print: escape sequences in ids and paths are shown, not sent to the terminal.

With ``--json`` the standard output holds one JSON object, the result, and nothing else; the last
line of the standard error of a command that failed is one JSON object, the error.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pipeline.errors import FearecError, StorageError, memory_failures
from pipeline.storage.credentials import masked

Json = Annotated[
    bool, typer.Option("--json", help="Print the result, or the error, as one JSON object.")
]

_WIDE, _WIDEST = 120, 10_000  # columns; the latter more than any table has

_PARTS = ("what", "where", "expected", "found", "remedy")  # of a `FearecError`

# Control characters but for tabs, marks that reorder text, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""A text as one line that changes nothing but its place on the screen, and shows no key.

    A line break becomes ``\n``, an escape ``\x1b``.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), masked(text))


def print_error(message: str) -> None:
    """Print one line to the standard error."""
    typer.echo(printable(message), err=True)


def print_result(result: Any, show: Callable[[], None], as_json: bool) -> None:
    """Print what a command found or did: as one line of JSON, or as the command shows it.

    Args:
        result: Dataclasses, mappings, lists, dates, paths, numbers. In JSON a number that is not
            finite is null.
        show: Prints the result for people.
        as_json: The option `Json` of the command.

    Raises:
        StorageError: the output cannot be written, to a full disk for instance.
    """
    if as_json:
        with _output_errors():
            typer.echo(_as_json(result))
    else:
        show()


@contextmanager
def printed_errors(as_json: bool) -> Iterator[None]:
    """End a command that raises a `FearecError` with one line on the standard error.

    What libraries raise where memory is short becomes one.

    Raises:
        typer.Exit: with the error's exit code.
    """
    try:
        with memory_failures():
            yield
    except FearecError as error:
        if as_json:
            print_json_error(type(error).__name__, error, error.exit_code)
        else:
            print_error(f"error: {error}")
        raise typer.Exit(error.exit_code) from None


def print_json_error(kind: str, error: FearecError, exit_code: int) -> None:
    """Print an error and its parts as one line of JSON to the standard error."""
    parts = {name: getattr(error, name) for name in _PARTS}
    message = {"error": kind, "message": str(error), **parts, "exit_code": exit_code}
    typer.echo(_as_json(message), err=True)


def print_plain(*lines: str) -> None:
    """Print lines without markup, emoji, colours or wrapping."""
    console = Terminal()
    for line in lines:
        console.print(line, soft_wrap=True)


class Terminal(Console):
    """A standard stream; whatever a table holds is `printable`, and no markup or emoji.

    Args:
        stderr: The standard error instead of the standard output.
        wide: Tables may be wider than a narrow terminal. Where there is none, in a pipe or a file,
            they are as wide as they need: an id on two lines could not be found.
    """

    def __init__(self, *, stderr: bool = False, wide: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)
        if not self.is_terminal:
            self.width = _WIDEST
        elif wide:
            self.width = max(self.width, _WIDE)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich does, but printable before its width is measured: else it would be cut."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable; only rich's own control segments are left as they are."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(_printable_lines(text), style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does.

        Raises:
            StorageError: the output cannot be written, to a full disk for instance.
        """
        with _output_errors():
            super().print(*objects, **options)


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is left in the buffer must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(
            "cannot be written", "standard output", found=os.strerror(error.errno or 0)
        ) from error


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _as_json(value: Any) -> str:
    """One line of ASCII: whatever could steer a terminal is escaped."""
    return json.dumps(_json_value(value), allow_nan=False).replace("\x7f", "\\u007f")


def _json_value(value: Any) -> Any:
    """A value of JSON: keys in URIs are masked, numbers that are not finite are None."""
    if isinstance(value, str | PurePath):
        return masked(str(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_json_value(str(name)): _json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if is_dataclass(value):
        return {each.name: _json_value(getattr(value, each.name)) for each in fields(value)}
    return to_jsonable_python(value)
