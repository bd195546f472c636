"""A run: its stages in order, what is cached of them, and its row in `runs`."""
