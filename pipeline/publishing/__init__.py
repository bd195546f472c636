"""From scored parts to the recommendations table."""
