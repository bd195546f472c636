"""Lines printed exactly as they are, whatever ids and paths they hold."""

from rich.console import Console


def print_plain(*lines: str) -> None:
    """Print lines without markup, emoji, colours or wrapping."""
    console = Console()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
