"""The command ``python -m flows.tune``, and the entrypoint of deployments made earlier."""

from flows.scheduled.tune import app, tune

__all__ = ["tune"]

if __name__ == "__main__":
    app()
