"""Metrics of a model beside those of the champion and the baselines."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.terminal import Terminal, print_plain

if TYPE_CHECKING:
    from pipeline.results import Evaluated


def print_metrics(evaluated: "Evaluated") -> None:
    """Print the evaluation protocol, the users it covers, and one row per metric."""
    served = evaluated.n_served / evaluated.n_users
    print_plain(
        f"protocol: {evaluated.protocol}",
        f"users: {evaluated.n_users:,}, of whom the model can serve {served:.1%}",
    )
    unknown = evaluated.unknown_seen, evaluated.unknown_held_out
    if any(unknown):
        print_plain(
            f"events with items unknown to the model: {unknown[0]:,} left out of histories, "
            f"{unknown[1]:,} held out and missed"
        )
    if evaluated.not_compared:
        version = evaluated.champion_version
        print_plain(f"the champion {version} is not compared: {evaluated.not_compared}")
    Terminal().print(_metrics_table(evaluated))
    if evaluated.by_event_type:
        Terminal().print(_by_type_table(evaluated))


def _by_type_table(evaluated: "Evaluated") -> Table:
    """The metric that decides, by the type of the held-out events."""
    metric = evaluated.headline[0]
    names = list(next(iter(evaluated.by_event_type.values())).metrics)
    headings = ["users", *(name.replace("_", "-") for name in names)]
    table = Table(f"{metric} by type", *headings, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for kind, found in evaluated.by_event_type.items():
        intervals = {"model": found.headline_interval}
        cells = [
            f"{found.metrics[name][metric]:.4f}{_interval(intervals.get(name))}" for name in names
        ]
        table.add_row(kind, f"{found.n_users:,}", *cells)
    return table


def _metrics_table(evaluated: "Evaluated") -> Table:
    beside = {"champion": evaluated.champion} if evaluated.champion else {}
    recommenders = {
        "model": evaluated.model,
        **beside,
        "popularity": evaluated.popularity,
        "co_occurrence": evaluated.co_occurrence,
    }
    headings = [name.replace("_", "-") for name in recommenders]
    table = Table("", *headings, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for metric in evaluated.model:
        cells = [
            f"{metrics[metric]:.4f}{_interval(evaluated.intervals.get(name, {}).get(metric))}"
            for name, metrics in recommenders.items()
        ]
        table.add_row(metric, *cells)
    return table


def _interval(interval: tuple[float, float] | None) -> str:
    """The interval's ends without leading zeros: three columns have to fit into a terminal."""
    if interval is None:
        return ""
    return " ({}-{})".format(*(f"{end:.3f}".removeprefix("0") for end in interval))
