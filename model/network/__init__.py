"""The network: `FEARec`, its blocks and the spectral core."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.network.fearec import FEARec

__all__ = ["FEARec"]


def __getattr__(name: str) -> Any:
    """Import torch when `FEARec` is asked for, not with the package."""
    if name == "FEARec":
        from model.network.fearec import FEARec

        return FEARec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
