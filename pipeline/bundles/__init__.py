"""Bundles: what scoring needs of one model, and where the published ones are."""
