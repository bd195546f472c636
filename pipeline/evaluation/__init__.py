"""Held-out metrics of a model and of two baselines."""
