"""Interaction logs: finding, checking and reading them."""
