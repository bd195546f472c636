"""The command ``python -m flows.nightly``, and the entrypoint of deployments made earlier."""

from flows.scheduled.nightly import app, nightly

__all__ = ["nightly"]

if __name__ == "__main__":
    app()
