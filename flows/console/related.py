"""The reports of `fearec related`, `embeddings` and `audience`."""

from rich.table import Table

from flows.console.columns import folded
from pipeline.results import AudienceFound, Embedded, RelatedItems
from pipeline.terminal import Terminal, print_plain


def print_related(written: RelatedItems) -> None:
    """Print one line: the table, its rows, the items, the model and the run date."""
    count = written.n_not_offered
    not_offered = f", rules leave out {count:,} of them as related items" if count else ""
    print_plain(
        f"{written.table}: {written.n_rows:,} rows for {written.n_items:,} items by"
        f" {written.source}{_untrained(written.n_untrained)}{not_offered}; run date"
        f" {written.run_date}, model {written.model_version}"
    )


def print_embeddings(written: Embedded) -> None:
    """Print a line per table."""
    what = f"run date {written.run_date}, model {written.model_version}"
    unknown = written.n_unknown_users
    users = f", {unknown:,} others have no item that the model knows" if unknown else ""
    print_plain(
        f"{written.item_table}: {written.n_items:,} items of {written.width} dimensions"
        f"{_untrained(written.n_untrained)}; {what}",
        f"{written.user_table}: {written.n_users:,} users of {written.width} dimensions"
        f"{users}; {what}",
    )


def print_audience(found: AudienceFound) -> None:
    """Print the rows, where they are not in a file, and one line that says whose they are."""
    if found.output is None:
        table = Table(*folded("item", "rank", "user", "score"))
        for row in found.rows:
            cells = row["item_id"], row["rank"], row["user_id"], f"{row['score']:.4f}"
            table.add_row(*map(str, cells))
        Terminal().print(table)
    unknown = f", {found.n_unknown:,} listed items are unknown" if found.n_unknown else ""
    rules = ", ".join(f"{count:,} by {rule}" for rule, count in found.left_out.items())
    left_out = f", others are left out: {rules}" if rules else ""
    print_plain(
        f"{found.output or 'audience'}: {found.n_rows:,} rows for {found.n_items:,} items, the best"
        f" of {found.n_users:,} users{unknown}{_untrained(found.n_untrained)}{left_out};"
        f" run date {found.run_date}, model {found.model_version}"
    )


def _untrained(count: int) -> str:
    return f", {count:,} others were never trained on" if count else ""
