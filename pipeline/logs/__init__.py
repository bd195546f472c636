"""Interaction logs: their files, the validation of their columns and rows, and lists of ids."""
