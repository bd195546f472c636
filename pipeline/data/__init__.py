"""From logs to training data: ingest, prepare, splits."""
