"""Scoring: a bundle and users' histories to recommendations, with ONNX Runtime."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.scoring.run import score

__all__ = ["score"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `fearec-score --help` imports this package, and must answer at once.
    if name == "score":
        from pipeline.scoring.run import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
