"""Where work runs: processes of our own."""
