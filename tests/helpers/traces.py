"""Traces of the encoder that all processes of a test run share, as tracing takes ten seconds."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest
from filelock import FileLock


@contextmanager
def traces_shared_in(folder: Path) -> Iterator[None]:
    """Exports take their trace from a folder, where the first to need it leaves it."""
    import onnx_ir
    import torch

    from model.config import FEARecConfig
    from model.export import graphs

    trace = graphs._traced

    @lru_cache(maxsize=4)
    def shared(config: FEARecConfig, fft: graphs.Form) -> torch.onnx.ONNXProgram:
        architecture = f"{fft} {config.model_dump_json()}"
        file = folder / f"{hashlib.sha256(architecture.encode()).hexdigest()}.onnx"
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                begun = file.with_suffix(".part")
                onnx_ir.save(trace(config, fft).model, begun)
                begun.rename(file)
        return torch.onnx.ONNXProgram(onnx_ir.load(file), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_traced", shared)
        yield
