"""One user's history and recommendations."""

from datetime import date

from rich.table import Table
from rich.text import Text

from flows.console.plain import print_plain
from pipeline.config.settings import Settings
from pipeline.errors import InputError
from pipeline.runner.failures import storage_failures
from pipeline.storage.locations import Warehouse
from pipeline.terminal import Terminal
from pipeline.warehouse.lookup import Event, Recommended, history_of, recommended_to

_EVENTS = 20  # the last ones of a history


def print_user(settings: Settings, user_id: str, run_date: date | None) -> None:
    """Print a user's last events, and the recommendations of a run date.

    Args:
        settings: Where the tables are.
        user_id: As in the logs.
        run_date: Default the newest.

    Raises:
        InputError: the user has neither events nor recommendations, or there are no tables yet.
        StorageError: the tables cannot be read.
    """
    warehouse = Warehouse(settings.warehouse)
    with storage_failures(settings):
        events = history_of(warehouse, user_id, _EVENTS)
        found = recommended_to(warehouse, [user_id], run_date)
    if not events and not found:
        raise InputError("no such user", "user_id", found=repr(user_id))
    console = Terminal()
    console.print(_history(user_id, events))
    for recommended in found:
        console.print(_ranks(recommended))
    if not found:
        print_plain("No recommendations for this user.")


def _history(user_id: str, events: list[Event]) -> Table:
    table = Table("item", "time", title=Text(f"Last events of {user_id}"), title_justify="left")
    for event in events:
        table.add_row(Text(str(event.item_id)), f"{event.timestamp:%Y-%m-%d %H:%M:%S}")
    return table


def _ranks(found: Recommended) -> Table:
    title = Text(f"Recommended on {found.run_date} by {found.model_version} ({found.source})")
    table = Table("rank", "item", "score", title=title, title_justify="left")
    for rank, (item, score) in enumerate(found.items, start=1):
        table.add_row(str(rank), Text(str(item)), f"{score:.4f}")
    return table
