"""`fearec import`: data sets in other formats into Parquet logs."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json, one_line_errors, print_result
from pipeline.logs.imports.options import Columns, Format, Unit


@one_line_errors()
def import_logs(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Text; .gz and the like too.", show_default=False),
    ],
    kind: Annotated[Format, typer.Option("--format", help="Format of the file.")],
    out: Annotated[Path, typer.Option(metavar="LOGS", help="Folder to make.")],
    user: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of users. (default: user_id)")
    ] = None,
    item: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of items. (default: item_id)")
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of times. (default: timestamp)")
    ] = None,
    timestamp_unit: Annotated[
        Unit | None,
        typer.Option(help="Seconds or milliseconds since the epoch, or ISO 8601. (default: s)"),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help=r"csv: between two fields; \t is a tab. (default: ,)")
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="csv: columns have numbers from 1, not names.")
    ] = False,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Leave bad lines out, and write them aside.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn another format into Parquet logs; the column options are for recbole and csv."""
    from flows.console.imports import print_import
    from flows.console.progress import import_progress
    from pipeline.logs.imports.importer import import_logs as run_import

    columns = Columns(user, item, timestamp, timestamp_unit, delimiter, not no_header)
    with import_progress() as progress:
        imported = run_import(
            path, out, kind, columns, skip_bad_lines=skip_bad_lines, progress=progress
        )
    result = {**asdict(imported), "run_date": imported.run_date}
    print_result(result, partial(print_import, imported), as_json)
