"""What commands print: escape sequences in ids and paths are shown, not sent to the terminal."""

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pipeline.errors import StorageError
from pipeline.storage.credentials import masked

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


def print_plain(*lines: str) -> None:
    """Print lines without markup, emoji, colours or wrapping."""
    console = Terminal()
    for line in lines:
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False, emoji=False)


class Terminal(Console):
    """The standard output; whatever a table holds is `printable`."""

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
        try:
            super().print(*objects, **options)
        except OSError as error:
            # What is left in the buffer must not fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise StorageError(
                "cannot be written", "standard output", found=os.strerror(error.errno or 0)
            ) from error


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
