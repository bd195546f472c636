"""One user's history and recommendations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from rich.table import Table

from flows.console.columns import folded
from pipeline.config.settings import Settings
from pipeline.errors import InputError
from pipeline.logs.items_table import item_titles
from pipeline.runner.failures import storage_failures
from pipeline.storage.locations import Warehouse
from pipeline.terminal import Terminal, print_plain
from pipeline.warehouse.lookup import Event, Id, Recommended, history_of, recommended_to

Titles = Mapping[Id, str] | None  # by item id; None without an items table

_EVENTS = 20  # the last ones of a history


@dataclass(frozen=True)
class FoundUser:
    """What the tables hold about a user.

    Attributes:
        user_id: As in the logs.
        history: The last events, newest first.
        recommended: The recommendations of a run date; None where there are none.
        titles: Of the items of both.
    """

    user_id: str
    history: list[Event]
    recommended: Recommended | None
    titles: Titles


def find_user(settings: Settings, user_id: str, run_date: date | None) -> FoundUser:
    """Look up a user's last events, and the recommendations of a run date.

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
    for recommended in found:
        shown += [item for item, _ in recommended.items]
        shown += [item for item in recommended.because if item is not None]
    path = settings.items.path
    titles = None if path is None else item_titles(path, shown)
    return FoundUser(user_id, events, found[0] if found else None, titles)


def user_result(found: FoundUser) -> dict[str, Any]:
    """A user for ``--json``: the history, newest first, and the recommendations, best first."""
    recommended = found.recommended

    def item(item_id: Id) -> dict[str, Any]:
        title = {} if found.titles is None else {"title": found.titles.get(item_id)}
        return {"item_id": item_id, **title}

    def listed(recommended: Recommended) -> Iterator[dict[str, Any]]:
        for place, (item_id, score) in enumerate(recommended.items):
            why: dict[str, Any] = {"source": recommended.sources[place]}
            why |= {"because": recommended.because[place]} if recommended.because else {}
            yield {**item(item_id), "score": score, **why}

    return {
        "user_id": found.user_id,
        "history": [{**item(e.item_id), "timestamp": e.timestamp} for e in found.history],
        "recommended": recommended
        and {
            "run_date": recommended.run_date,
            "model_version": recommended.model_version,
            "source": recommended.source,
            "items": list(listed(recommended)),
        },
    }


def print_user(found: FoundUser) -> None:
    """Print a user's last events and recommendations as tables."""
    print_plain(f"Last events of {found.user_id}")
    Terminal().print(_history(found))
    if now := found.recommended:
        print_plain(f"Recommended on {now.run_date} by {now.model_version} ({now.source})")
        Terminal().print(_ranks(now, found.titles))
    else:
        print_plain("No recommendations for this user.")


def _history(found: FoundUser) -> Table:
    table = Table(*folded(*_item_columns(found.titles), "time"))
    for event in found.history:
        time = f"{event.timestamp:%Y-%m-%d %H:%M:%S}"
        table.add_row(*_item_cells(event.item_id, found.titles), time)
    return table


def _ranks(found: Recommended, titles: Titles) -> Table:
    columns = ["rank", *_item_columns(titles), "score"]
    more: list[Sequence[str]] = []
    if set(found.sources) - {found.source}:
        columns.append("source")
        more.append(found.sources)
    if found.because:
        columns.append("because")
        more.append([_name(item, titles) for item in found.because])
    table = Table(*folded(*columns))
    for place, (item, score) in enumerate(found.items):
        cells = *_item_cells(item, titles), f"{score:.4f}", *(column[place] for column in more)
        table.add_row(str(place + 1), *cells)
    return table


def _item_columns(titles: Titles) -> list[str]:
    return ["item"] if titles is None else ["item", "title"]


def _item_cells(item: Id, titles: Titles) -> list[str]:
    """The item's id and, where there is an items table, its title."""
    return [str(item)] if titles is None else [str(item), titles.get(item, "")]


def _name(item: Id | None, titles: Titles) -> str:
    """An item's title, where it has one, or its id; empty for none."""
    return "" if item is None else (titles or {}).get(item, str(item))
