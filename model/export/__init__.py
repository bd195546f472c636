"""ONNX graphs of a network: `export_encoder`, `export_recommender`, and their checks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.export.graphs import export_encoder, export_recommender

__all__ = ["export_encoder", "export_recommender"]


def __getattr__(name: str) -> Any:
    """Import torch and onnx when a function is asked for, not with the package."""
    if name in __all__:
        from model.export import graphs

        return getattr(graphs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
