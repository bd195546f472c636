"""Paths and URIs as texts, as a URI would not survive as a `Path`."""

import os
from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_text(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


PathText = Annotated[str | None, BeforeValidator(_as_text)]
