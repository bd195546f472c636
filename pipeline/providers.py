"""Where a graph runs: the execution provider, the session on it, and the sizes that suit it."""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.bundle import CPU_RECOMMENDER
from pipeline.errors import BundleError
from pipeline.histories import Batch

Provider = Literal["auto", "cuda", "tensorrt", "cpu"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

# TensorRT leaves to CUDA the nodes it has no kernel for.
_WANTED = {"cpu": [CPU], "cuda": [CUDA, CPU], "tensorrt": [TENSORRT, CUDA, CPU]}

# Users a batch on a CPU: the encoder is fastest while its layers stay in cache; retrieval from a
# large catalogue, when it goes over the items once for many users.
_SMALL_CATALOGUE, _CPU_BATCH, _CPU_BATCH_LARGE = 2**16, 64, 256
_GPU_BATCH = 4096
_SCORES = {CPU: 2**30, CUDA: 2**29, TENSORRT: 2**29}  # (B, V) float32; a CPU holds a 16th of them

_SILENT, _WARNING = 4, 2


@dataclass(frozen=True)
class Recommender:
    """`recommender.onnx` in a session, its item_bias resident on the device."""

    session: onnxruntime.InferenceSession
    item_bias: onnxruntime.OrtValue
    k: onnxruntime.OrtValue

    @property
    def at_once(self) -> int:
        """How many batches to run side by side: a GPU takes one, every core of a CPU one."""
        if self.provider != CPU:
            return 1
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    @property
    def provider(self) -> str:
        """The execution provider in use, such as CUDAExecutionProvider."""
        return str(self.session.get_providers()[0])

    def __call__(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Recommend to a batch.

        Returns:
            item_index (B, K) int64 and score (B, K) float32, best first; index 0 where fewer
            than K items are eligible.
        """
        binding = self.session.io_binding()
        binding.bind_cpu_input("item_seq", batch.item_seq)
        binding.bind_cpu_input("item_seq_len", batch.item_seq_len)
        binding.bind_cpu_input("exclude", batch.exclude)
        binding.bind_ortvalue_input("item_bias", self.item_bias)
        binding.bind_ortvalue_input("k", self.k)
        binding.bind_output("item_index")
        binding.bind_output("score")
        self.session.run_with_iobinding(binding)
        item_index, score = binding.copy_outputs_to_cpu()
        return item_index, score


def load_recommender(
    graph: Path, provider: Provider, *, item_bias: NDArray[np.float32], top_k: int
) -> Recommender:
    """Open `recommender.onnx` on the provider asked for.

    Args:
        graph: The file; its external data lies beside it.
        provider: `auto` takes CUDA where it works and the CPU elsewhere.
        item_bias: (V,) 0 where an item is eligible, -inf where it is not.
        top_k: K.

    Raises:
        ConfigError: the provider asked for does not work here.
        BundleError: the graph cannot be loaded.
    """
    session = _auto_session(graph) if provider == "auto" else _session(graph, provider)
    device = "cpu" if session.get_providers()[0] == CPU else "cuda"
    return Recommender(
        session,
        onnxruntime.OrtValue.ortvalue_from_numpy(item_bias, device, 0),
        onnxruntime.OrtValue.ortvalue_from_numpy(np.array([top_k], np.int64), "cpu", 0),
    )


def auto_batch_size(provider: str, n_items: int) -> int:
    """Users a batch: what keeps the provider busy while its (B, V) scores stay within a budget."""
    batch = _GPU_BATCH
    if provider == CPU:
        batch = _CPU_BATCH if n_items < _SMALL_CATALOGUE else _CPU_BATCH_LARGE
    return max(1, min(batch, _SCORES[provider] // n_items))


def _auto_session(graph: Path) -> onnxruntime.InferenceSession:
    try:
        return _session(graph, "cuda")
    except ConfigError:
        return _session(graph, "cpu")


def _session(graph: Path, provider: str) -> onnxruntime.InferenceSession:
    wanted = _WANTED[provider]
    if wanted[0] not in onnxruntime.get_available_providers():
        raise _unusable(provider, f"{wanted[0]} is not part of this onnxruntime")
    if provider == "cpu" and graph.with_name(CPU_RECOMMENDER).exists():
        graph = graph.with_name(CPU_RECOMMENDER)
    options = onnxruntime.SessionOptions()
    if provider == "cpu":
        # One batch a core side by side (`Recommender.at_once`): cores that share a batch wait
        # for each other at every node.
        options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors; its warnings are about where nodes were placed
    with _told() as told:
        if wanted[0] != CPU:
            onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(
                str(graph), options, providers=wanted, enable_fallback=False
            )
        except Exception as error:  # onnxruntime's own errors have no common base class
            if wanted[0] == CPU:
                raise BundleError(
                    f"onnxruntime cannot load the graph: {_first_line(str(error))}",
                    str(graph),
                    remedy="Export the model again.",
                ) from None
            raise _unusable(provider, told.getvalue() or str(error)) from None
    if session.get_providers()[0] != wanted[0]:
        raise _unusable(provider, told.getvalue() or f"onnxruntime chose {session.get_providers()}")
    return session


@contextlib.contextmanager
def _told() -> Iterator[io.StringIO]:
    """Catch what onnxruntime prints about libraries it misses; we say it in our own line."""
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            yield told
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)


def _unusable(provider: str, reason: str) -> ConfigError:
    return ConfigError(
        f"the execution provider does not work here ({_first_line(reason)})",
        "score.provider",
        expected=provider,
        remedy="Install the libraries it needs (for CUDA: pip install "
        "'onnxruntime-gpu[cuda,cudnn]' and a driver), or use --provider cpu or auto.",
    )


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
