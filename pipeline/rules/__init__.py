"""Rules on what is recommended: what is known of the items, and conditions on it."""
