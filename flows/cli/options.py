"""Options that several commands take, and how a command ends with an error: in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from model.errors import FearecError
from pipeline.errors import memory_failures
from pipeline.terminal import print_error

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings. (default: fearec.toml)")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Override one setting.")
]
Day = Annotated[
    datetime | None,
    typer.Option(
        "--date",
        formats=["%Y-%m-%d"],
        metavar="YYYY-MM-DD",
        help="Run date. (default: today in time_zone)",
    ),
]
PublishedDay = Annotated[
    datetime | None,
    typer.Option(
        "--date",
        formats=["%Y-%m-%d"],
        metavar="YYYY-MM-DD",
        help="Run date. (default: the newest in the table of recommendations)",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Redo what is done already.")]
ForcePublish = Annotated[
    bool, typer.Option("--force-publish", help="Publish the new model in any case.")
]

_INTERRUPTED = 128 + 2  # the exit code of shells after SIGINT


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a `FearecError` or Ctrl-C into one line on stderr and an exit code. Also a decorator.

    Raises:
        typer.Exit: with the error's own exit code, or with 130 after Ctrl-C.
    """
    try:
        with memory_failures():
            yield
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning turns Ctrl-C during training into a plain SystemExit.
        if isinstance(end, SystemExit) and not isinstance(end.__context__, KeyboardInterrupt):
            raise
        print_error("interrupted; run the same command to continue")
        raise typer.Exit(_INTERRUPTED) from None
    except FearecError as error:
        print_error(f"error: {error}")
        raise typer.Exit(error.exit_code) from None


def new_app(**options: Any) -> typer.Typer:
    """A Typer application with plain tracebacks and without shell completion."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, **options)


def as_date(day: datetime | None) -> date | None:
    """The date of a `Day` option, None where it was not given."""
    return day.date() if day else None
