"""Bundles: what scoring needs of one model; and which published bundle is the champion."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.bundles.bundle import Bundle

__all__ = ["Bundle"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that importing this package loads no pyarrow.
    if name == "Bundle":
        from pipeline.bundles.bundle import Bundle

        return Bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
