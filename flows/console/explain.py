"""Why an item is in a user's list, or is not."""

from pipeline.config.settings import Settings
from pipeline.logs.items_table import item_titles
from pipeline.results import Explained
from pipeline.terminal import print_plain


def print_explained(settings: Settings, found: Explained) -> None:
    """Print one line on the question, one per reason, and one per thing that has changed."""
    path = settings.items.path
    titles = (item_titles(path, [found.item_id]) if path else None) or {}
    title = f" ({titles[found.item_id]})" if found.item_id in titles else ""
    answer = "is in" if found.listed else "is not in"
    print_plain(
        f"Item {found.item_id}{title} {answer} the list of user {found.user_id} of"
        f" {found.run_date}, by model {found.model_version}:",
        *(f"  {reason.text}" for reason in found.reasons),
        *(f"  changed since then: {what}" for what in found.changed),
    )
