"""Lines printed exactly as they are, whatever ids and paths they hold."""

from pipeline.terminal import print_plain

__all__ = ["print_plain"]
