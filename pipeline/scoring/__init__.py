"""Scoring: a bundle and histories to tables of recommendations."""
