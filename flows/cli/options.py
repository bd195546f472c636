"""Options that several commands take, and how a command ends with an error: in one line.

Every command takes ``as_json: Json = False``, is decorated with `one_line_errors`, and prints by
`print_result`.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ParamSpec

import typer

from model.errors import FearecError
from pipeline.terminal import Json, print_error, print_json_error, print_result, printed_errors

__all__ = [
    "DATE_FORMATS",
    "Config",
    "Day",
    "Engine",
    "Force",
    "Json",
    "Overrides",
    "PublishedDay",
    "RunDay",
    "ServedDay",
    "as_date",
    "new_app",
    "one_line_errors",
    "print_result",
    "with_engine",
]

Params = ParamSpec("Params")

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings. (default: fearec.toml)")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Override one setting.")
]
DATE_FORMATS = ["%Y-%m-%d"]


def _run_date(default: str) -> Any:
    return typer.Option(
        "--date",
        formats=DATE_FORMATS,
        metavar="YYYY-MM-DD",
        help=f"Run date. (default: {default})",
    )


Day = Annotated[datetime | None, _run_date("today in time_zone")]
RunDay = Annotated[datetime | None, _run_date("the newest that was run")]
PublishedDay = Annotated[datetime | None, _run_date("the newest in the table of recommendations")]
ServedDay = Annotated[datetime | None, _run_date("the newest that a model serves")]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="Where the work is done: local, or ray for a Ray cluster. (default: local)",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Redo what is done already.")]
ForcePublish = Annotated[
    bool, typer.Option("--force-publish", help="Publish the new model in any case.")
]

# The exit codes of shells after a signal.
_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class _Termination(SystemExit):
    """SIGTERM, with which systems and schedulers end a process."""


def one_line_errors() -> Callable[[Callable[Params, None]], Callable[Params, None]]:
    """A decorator of commands: a `FearecError`, Ctrl-C or SIGTERM is one line and an exit code.

    With ``--json`` (the argument `as_json` of the command) the line is a JSON object.

    Raises:
        typer.Exit: with the error's own exit code, 130 after Ctrl-C, or 143 after SIGTERM.
    """

    def decorate(command: Callable[Params, None]) -> Callable[Params, None]:
        @wraps(command)
        def run(*args: Params.args, **options: Params.kwargs) -> None:
            as_json = bool(options.get("as_json"))
            try:
                with printed_errors(as_json), _raised_sigterm():
                    command(*args, **options)
            except _Termination:
                _print_end("terminated", options, _TERMINATED)
                raise typer.Exit(_TERMINATED) from None
            except (KeyboardInterrupt, SystemExit) as end:
                # Lightning turns Ctrl-C during training into a plain SystemExit.
                if isinstance(end, SystemExit) and not isinstance(
                    end.__context__, KeyboardInterrupt
                ):
                    raise
                _print_end("interrupted", options, _INTERRUPTED)
                raise typer.Exit(_INTERRUPTED) from None

        return run

    return decorate


@contextmanager
def _raised_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, so that what is at work is closed; by default it ends Python at once."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Termination(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_end(how: str, options: Mapping[str, object], exit_code: int) -> None:
    """Print how a command ended, and how it is continued, given its arguments."""
    but = ", without --overwrite once it has begun anew" if options.get("overwrite") else ""
    if options.get("as_json"):
        error = FearecError(how, remedy=f"Run the same command to continue{but}.")
        print_json_error(how.capitalize(), error, exit_code)
    else:
        print_error(f"{how}; run the same command to continue{but}")


def new_app(**options: Any) -> typer.Typer:
    """A Typer application with plain tracebacks and without shell completion."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, **options)


def with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    """The overrides, and that of the option `Engine`."""
    from pipeline.config.settings import as_overrides

    return [*(overrides or ()), *as_overrides("engine", {"kind": engine})]


def as_date(day: datetime | None) -> date | None:
    """The date of a `Day` option, None where it was not given."""
    return day.date() if day else None
