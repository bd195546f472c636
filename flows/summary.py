"""What the commands print at their end."""

from dataclasses import asdict
from datetime import date
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import InputError
from pipeline.lookup import Recommended, first_users, history_of, recommended_to
from pipeline.nightly import NightResult
from pipeline.records import Record
from pipeline.settings import Settings
from pipeline.storage import told_in_one_line

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
    for name, value in asdict(record.result).items():
        _plain(console, f"  {name}: {value}")


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
    history = Table("item", "time", title=Text(f"Last events of {user_id}"), title_justify="left")
    for event in events:
        history.add_row(Text(str(event.item_id)), f"{event.timestamp:%Y-%m-%d %H:%M:%S}")
    console.print(history)
    for found in recommended:
        title = Text(f"Recommended on {found.run_date} by {found.model_version} ({found.source})")
        ranks = Table("rank", "item", "score", title=title, title_justify="left")
        for rank, (item, score) in enumerate(found.items, start=1):
            ranks.add_row(str(rank), Text(str(item)), f"{score:.4f}")
        console.print(ranks)
    if not recommended:
        _plain(console, "No recommendations for this user.")


def _items(recommended: Recommended) -> str:
    return ", ".join(f"{item} {score:.2f}" for item, score in recommended.items[:_TOP])


def _plain(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
