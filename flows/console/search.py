"""What `fearec tune` prints: a bar while it searches, and its trials in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from flows.console.night import print_figures
from pipeline.tuning.tune import Progress as Report
from pipeline.tuning.tune import Tuned


@contextmanager
def search_progress() -> Iterator[Report]:
    """Draw trials done, the best so far, and the time.

    Yields:
        What `pipeline.tuning.tune.tune` takes as `progress`.
    """
    console = Console()
    bar = Progress(
        TextColumn("trials"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)

        def progress(done: int, wanted: int, best: float | None) -> None:
            told = "" if best is None else f"best NDCG@10 {best:.4f}"
            bar.update(task, description=told, completed=done, total=wanted)

        yield progress


def print_search(tuned: Tuned) -> None:
    """Every trial, the best one, and where everything is."""
    console = Console()
    trials = pq.read_table(tuned.trials).to_pylist()
    names = list(tuned.parameters)
    table = Table(box=None, pad_edge=False)
    for heading in ("#", *names, "epochs", "NDCG@10", "state", "seconds"):
        table.add_column(heading, overflow="fold")
    for trial in trials:
        cells = [trial["number"], *(trial[name] for name in names), trial["epochs"]]
        ndcg = "" if trial["ndcg_at_10"] is None else f"{trial['ndcg_at_10']:.4f}"
        state = trial["state"] + (f": {trial['error']}" if trial["error"] else "")
        table.add_row(
            *(Text(_cell(cell)) for cell in cells),
            ndcg,
            Text(state),
            f"{trial['seconds']:.1f}",
            style="bold" if trial["number"] == tuned.best else None,
        )
    console.print(table)
    for line in headlines(tuned):
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print("\nThe best trial on the test, which nothing was chosen by:")
    print_figures(tuned.test)


def headlines(tuned: Tuned) -> list[str]:
    """How the search ended, its best, and where everything is."""
    best = ", ".join(f"{name} {_cell(value) or None}" for name, value in tuned.parameters.items())
    return [
        f"{tuned.n_complete} trials complete, {tuned.n_pruned} pruned, {tuned.n_failed} failed",
        f"best: trial {tuned.best} ({best}), NDCG@10 {tuned.valid_ndcg_at_10:.4f} on validation",
        f"settings: {tuned.settings}",
        f"trials: {tuned.trials}",
        f"plots: {tuned.plots}",
    ]


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
