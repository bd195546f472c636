"""The warehouse's Delta tables."""
