"""The report of an import."""

import shlex

from pipeline.logs.imports.importer import Imported
from pipeline.terminal import print_plain


def print_import(imported: Imported) -> None:
    """Print counts, the time span, where the logs are, and the command to run next."""
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
    logs = shlex.quote(f"logs.path={imported.logs}")
    print_plain(
        *(f"{name:<14}{value}" for name, value in lines.items()),
        "",
        f"Next: fearec nightly --set {logs} --date {imported.run_date}",
    )
