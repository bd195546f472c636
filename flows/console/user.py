"""One user's history and recommendations."""

from collections.abc import Mapping
from datetime import date

from rich.table import Table
from rich.text import Text

from pipeline.config.settings import Settings
from pipeline.errors import InputError
from pipeline.logs.items_table import item_titles
from pipeline.runner.failures import storage_failures
from pipeline.storage.locations import Warehouse
from pipeline.terminal import Terminal, print_plain
from pipeline.warehouse.lookup import Event, Id, Recommended, history_of, recommended_to

Titles = Mapping[Id, str] | None  # by item id; None without an items table

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
    shown = [event.item_id for event in events]
    shown += [item for recommended in found for item, _ in recommended.items]
    path = settings.items.path
    titles = None if path is None else item_titles(path, shown)
    console = Terminal()
    console.print(_history(user_id, events, titles))
    for recommended in found:
        console.print(_ranks(recommended, titles))
    if not found:
        print_plain("No recommendations for this user.")


def _history(user_id: str, events: list[Event], titles: Titles) -> Table:
    heading = Text(f"Last events of {user_id}")
    table = Table(*_item_columns(titles), "time", title=heading, title_justify="left")
    for event in events:
        time = f"{event.timestamp:%Y-%m-%d %H:%M:%S}"
        table.add_row(*_item_cells(event.item_id, titles), time)
    return table


def _ranks(found: Recommended, titles: Titles) -> Table:
    heading = Text(f"Recommended on {found.run_date} by {found.model_version} ({found.source})")
    table = Table("rank", *_item_columns(titles), "score", title=heading, title_justify="left")
    for rank, (item, score) in enumerate(found.items, start=1):
        table.add_row(str(rank), *_item_cells(item, titles), f"{score:.4f}")
    return table


def _item_columns(titles: Titles) -> list[str]:
    return ["item"] if titles is None else ["item", "title"]


def _item_cells(item: Id, titles: Titles) -> list[Text]:
    """The item's id and, where there is an items table, its title."""
    return [Text(str(item))] if titles is None else [Text(str(item)), Text(titles.get(item, ""))]
