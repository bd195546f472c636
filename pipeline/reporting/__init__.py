"""The report of a run: a self-contained page per run date, and an index over all."""
