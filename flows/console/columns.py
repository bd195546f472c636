"""The columns of printed tables."""

from rich.table import Column


def folded(*names: str) -> list[Column]:
    """Columns that fold what is too wide for them; rich's own cut it off."""
    return [Column(name, overflow="fold") for name in names]
