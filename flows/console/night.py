"""What the commands print at their end."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config.settings import Settings
from pipeline.errors import InputError
from pipeline.logs.imports.importer import Imported
from pipeline.logs.items_table import item_titles
from pipeline.runner.cache import Record
from pipeline.runner.failures import told_in_one_line
from pipeline.runner.nightly import NightResult
from pipeline.warehouse.lookup import Id, Recommended, first_users, history_of, recommended_to

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import Evaluated

_USERS, _TOP = 3, 5
_HISTORY = 20


def print_night(settings: Settings, night: NightResult) -> None:
    """Stage timings, the headline figures, where everything is, and a few recommendations."""
    console = Console()
    timings = Table(
        "stage", "seconds", "", title=f"Night of {night.run_date}", title_justify="left"
    )
    timings.columns[1].justify = "right"
    for record in night.stages.values():
        timings.add_row(
            record.stage, f"{record.seconds:.1f}", "done before" if record.reused else ""
        )
    console.print(timings)
    for line in headlines(night):
        _plain(console, line)
    console.print()
    with told_in_one_line(settings):
        users = first_users(settings, night.run_date, _USERS)
        found = recommended_to(settings, users, night.run_date)
    for recommended in found:
        _plain(console, f"user {recommended.user_id} ({recommended.source}): {_items(recommended)}")


def headlines(night: NightResult) -> list[str]:
    """How good the model is, and where the model and its recommendations are."""
    results = {name: record.result for name, record in night.stages.items()}
    name, model, popularity = night.headline
    ratio = f"{model / popularity:.1f} times" if popularity else "while popularity is 0"
    published = results["publish"]
    return [
        f"{name}: model {model:.4f}, popularity {popularity:.4f} ({ratio})",
        f"protocol: {results['evaluate'].protocol}",
        f"bundle: {results['export'].bundle}",
        f"recommendations: {published.table}, {published.n_rows:,} rows "
        f"for {published.n_users:,} users",
    ]


def print_stage(record: Record[Any]) -> None:
    """What a stage returned, one line a field."""
    console = Console()
    _plain(
        console,
        f"{record.stage}: done before"
        if record.reused
        else f"{record.stage}: {record.seconds:.1f} seconds",
    )
    if record.stage == "evaluate":
        print_figures(record.result)
        return
    for name, value in asdict(record.result).items():
        _plain(console, f"  {name}: {value}")


def print_figures(evaluated: "Evaluated") -> None:
    """The model's figures beside the baselines', under their protocol."""
    console = Console()
    _plain(console, f"protocol: {evaluated.protocol}")
    served = evaluated.n_served / evaluated.n_users
    _plain(console, f"users: {evaluated.n_users:,}, of whom the model can serve {served:.1%}")
    unknown = evaluated.unknown_seen, evaluated.unknown_held_out
    if any(unknown):
        _plain(
            console,
            f"events with items unknown to the model: {unknown[0]:,} left out of histories, "
            f"{unknown[1]:,} held out and missed",
        )
    sides = {
        "model": evaluated.model,
        "popularity": evaluated.popularity,
        "co_occurrence": evaluated.co_occurrence,
    }
    names = [side.replace("_", "-") for side in sides]
    table = Table("", *names, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in evaluated.model:
        cells = [
            f"{figures[name]:.4f}{_around(evaluated.intervals.get(side, {}).get(name))}"
            for side, figures in sides.items()
        ]
        table.add_row(name, *cells)
    console.print(table)


def print_import(imported: Imported) -> None:
    """What was imported, and what to run next."""
    console = Console()
    days = "1 day" if imported.n_days == 1 else f"{imported.n_days:,} days"
    lines = {
        "users": f"{imported.n_users:,} ({imported.user_ids})",
        "items": f"{imported.n_items:,} ({imported.item_ids})",
        "interactions": f"{imported.n_interactions:,}",
        "from": f"{imported.first_event:%Y-%m-%d %H:%M:%S} UTC",
        "to": f"{imported.last_event:%Y-%m-%d %H:%M:%S} UTC, {days}",
        "bad lines": f"{imported.n_bad_lines:,}"
        + (f", in {imported.bad_lines}" if imported.bad_lines else ""),
        "logs": str(imported.logs),
    }
    for name, value in lines.items():
        _plain(console, f"{name:<14}{value}")
    logs = shlex.quote(f"logs.path={imported.logs}")
    _plain(console, f"\nNext: fearec nightly --set {logs} --date {imported.run_date}")


def print_user(settings: Settings, user_id: str, run_date: date | None) -> None:
    """A user's last events and the recommendations of a run date, default the newest.

    Raises:
        InputError: the user has neither, or there are no tables yet.
    """
    console = Console()
    with told_in_one_line(settings):
        events = history_of(settings, user_id, _HISTORY)
        recommended = recommended_to(settings, [user_id], run_date)
    if not events and not recommended:
        raise InputError("no such user", "user_id", found=repr(user_id))
    shown = [event.item_id for event in events]
    shown += [item for found in recommended for item, _ in found.items]
    path = settings.items.path
    titles = item_titles(path, shown) if path is not None else None
    columns = ("item",) if titles is None else ("item", "title")
    heading = Text(f"Last events of {user_id}")
    history = Table(*columns, "time", title=heading, title_justify="left")
    for event in events:
        time = f"{event.timestamp:%Y-%m-%d %H:%M:%S}"
        history.add_row(*_item_cells(event.item_id, titles), time)
    console.print(history)
    for found in recommended:
        heading = Text(f"Recommended on {found.run_date} by {found.model_version} ({found.source})")
        ranks = Table("rank", *columns, "score", title=heading, title_justify="left")
        for rank, (item, score) in enumerate(found.items, start=1):
            ranks.add_row(str(rank), *_item_cells(item, titles), f"{score:.4f}")
        console.print(ranks)
    if not recommended:
        _plain(console, "No recommendations for this user.")


def _item_cells(item: Id, titles: Mapping[Id, str] | None) -> list[Text]:
    """An item's id and, where there is an items table, its title."""
    return [Text(str(item))] if titles is None else [Text(str(item)), Text(titles.get(item, ""))]


def _around(interval: tuple[float, float] | None) -> str:
    """Short enough for three columns in a terminal."""
    if interval is None:
        return ""
    return " ({}-{})".format(*(f"{end:.3f}".removeprefix("0") for end in interval))


def _items(recommended: Recommended) -> str:
    return ", ".join(f"{item} {score:.2f}" for item, score in recommended.items[:_TOP])


def _plain(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
