"""What says when: the command line and the Prefect flows over the stages."""

import os

# Before Prefect is imported: no run of ours, nor the temporary server it starts, calls anybody.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY", "false")
