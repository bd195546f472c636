"""The report of a search for hyper-parameters."""

from typing import Any

import pyarrow.parquet as pq
from rich.table import Table

from flows.console.columns import folded
from flows.console.figures import print_metrics
from pipeline.terminal import Terminal, print_plain
from pipeline.tuning.tune import Tuned


def print_search(tuned: Tuned) -> None:
    """Print a table of all trials, the best one in bold, and its metrics on the test events."""
    Terminal().print(_trials(tuned))
    print_plain(
        *headlines(tuned),
        "",
        "The best trial on the test events, by which nothing was chosen:",
    )
    print_metrics(tuned.test)


def headlines(tuned: Tuned) -> list[str]:
    """Lines on how the search ended, its best trial, and where the outputs are."""
    best = ", ".join(f"{name} {_cell(value) or None}" for name, value in tuned.parameters.items())
    return [
        f"{tuned.n_complete} trials complete, {tuned.n_pruned} pruned, {tuned.n_failed} failed",
        f"best: trial {tuned.best} ({best}), NDCG@10 {tuned.valid_ndcg_at_10:.4f} on validation",
        f"settings: {tuned.settings}",
        f"trials: {tuned.trials}",
        f"plots: {tuned.plots}",
    ]


def _trials(tuned: Tuned) -> Table:
    names = list(tuned.parameters)
    headings = folded("#", *names, "epochs", "NDCG@10", "state", "seconds")
    table = Table(*headings, box=None, pad_edge=False)
    for trial in pq.read_table(tuned.trials).to_pylist():
        cells = [trial["number"], *(trial[name] for name in names), trial["epochs"]]
        ndcg = "" if trial["ndcg_at_10"] is None else f"{trial['ndcg_at_10']:.4f}"
        state = trial["state"] + (f": {trial['error']}" if trial["error"] else "")
        table.add_row(
            *map(_cell, cells),
            ndcg,
            state,
            f"{trial['seconds']:.1f}",
            style="bold" if trial["number"] == tuned.best else None,
        )
    return table


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
