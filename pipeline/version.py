"""The option ``--version`` of both commands."""

from importlib.metadata import version
from typing import Annotated

import typer


def fearec_version() -> str:
    """The version that is installed."""
    return version("fearec")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fearec {fearec_version()}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
]
