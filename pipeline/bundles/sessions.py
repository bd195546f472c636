"""Where a graph runs: the execution provider, a session that works, the sizes that suit it."""

import contextlib
import ctypes
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.errors import ConfigError
from model.export.files import CPU_RECOMMENDER, RECOMMENDER
from pipeline.errors import BundleError

Provider = Literal["auto", "cuda", "tensorrt", "cpu"]
Precision = Literal["fp32", "fp16"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

# Left to CUDA: what chooses items and delays has our rule for ties there, and no limit of K.
_NOT_FOR_TENSORRT = "TopK,ScatterElements,GatherElements,Expand"

# Users a batch on a CPU: the encoder is fastest while its layers stay in cache; retrieval from a
# large catalogue, when it goes over the items once for many users.
_SMALL_CATALOGUE, _CPU_BATCH, _CPU_BATCH_LARGE = 2**16, 32, 256
_GPU_BATCH = 4096
_SCORES = {CPU: 2**30, CUDA: 2**29, TENSORRT: 2**29}  # (B, V) float32; a CPU holds a 16th of them

_SILENT, _WARNING = 4, 2


def open_session(
    graph: Path,
    provider: Provider,
    *,
    precision: Precision = "fp32",
    device_id: int = 0,
    users: int = 1,
    cache: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a bundle's graph on the provider asked for; on a device, it has run once.

    Args:
        graph: The file; its external data lies beside it.
        provider: `auto` takes CUDA where it works and the CPU elsewhere.
        precision: Of the graph.
        device_id: Which of several devices.
        users: The largest batch to come; TensorRT builds its engines for up to so many.
        cache: TensorRT's folder for the engines of this very graph: it tells graphs apart by
            their structure, not by their weights.

    Raises:
        ConfigError: the provider asked for does not work here.
        BundleError: the graph cannot be loaded.
    """
    if provider == "auto":
        try:
            return open_session(graph, "cuda", precision=precision, device_id=device_id)
        except ConfigError:
            return open_session(graph, "cpu")
    name = _NAMES[provider]
    if name not in onnxruntime.get_available_providers():
        raise _unusable(provider, f"{name} is not part of this onnxruntime")
    for_cpus = graph.with_name(CPU_RECOMMENDER)
    if provider == "cpu" and graph.name == RECOMMENDER and for_cpus.exists():
        graph = for_cpus
    options = onnxruntime.SessionOptions()
    if provider == "cpu":
        # One batch a core side by side (`Recommender.at_once`): cores that share a batch wait
        # for each other at every node.
        options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors; its warnings are about where nodes were placed
    with _told() as told:
        if name != CPU:
            onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(
                str(graph),
                options,
                providers=_with_options(name, precision, device_id, cache),
                enable_fallback=False,
            )
            if session.get_providers()[0] == name != CPU:
                # A library that is missing, or too old a device, can come to light only here.
                for batch in (1, users) if name == TENSORRT else (1,):
                    session.run(None, _sample(session, batch))
        except Exception as error:  # onnxruntime's own errors have no common base class
            if name == CPU:
                raise BundleError(
                    f"onnxruntime cannot load the graph: {_first_line(str(error))}",
                    str(graph),
                    remedy="Export the model again.",
                ) from None
            raise _unusable(provider, told.getvalue() or str(error)) from None
    if session.get_providers()[0] != name:
        raise _unusable(provider, told.getvalue() or f"onnxruntime chose {session.get_providers()}")
    return session


def auto_batch_size(provider: str, n_items: int) -> int:
    """Users a batch: what keeps the provider busy while its (B, V) scores stay within a budget."""
    batch = _GPU_BATCH
    if provider == CPU:
        batch = _CPU_BATCH if n_items < _SMALL_CATALOGUE else _CPU_BATCH_LARGE
    return max(1, min(batch, _SCORES[provider] // n_items))


def n_devices(wanted: int | Literal["auto"], provider: str) -> int:
    """How many processes to score in; `auto` is one, or one a CUDA device.

    Raises:
        ConfigError: more are asked for than there are devices.
    """
    if wanted == 1:
        return 1
    present = 1 if provider == CPU else max(1, _n_cuda_devices())
    if wanted == "auto":
        return present
    if provider != CPU and wanted > present:  # of a CPU, any number of processes have a share
        raise ConfigError(
            "more devices asked for than there are",
            "score.devices",
            expected=f"at most {present}",
            found=str(wanted),
            remedy="CUDA_VISIBLE_DEVICES decides which are seen.",
        )
    return wanted


def _n_cuda_devices() -> int:
    count = ctypes.c_int(0)
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            driver = ctypes.CDLL(library)
            if driver.cuInit(0) == 0:
                driver.cuDeviceGetCount(ctypes.byref(count))
            break
    return count.value


def _with_options(
    name: str, precision: Precision, device_id: int, cache: Path | None
) -> list[tuple[str, dict[str, Any]]]:
    """The providers in order: each leaves to the next the nodes it has no kernel for."""
    cpu: tuple[str, dict[str, Any]] = (CPU, {})
    # float32 means float32: TF32 keeps 10 bits, fewer than what tells delays and items apart.
    cuda = (CUDA, {"device_id": device_id, "use_tf32": 0})
    if name == CPU:
        return [cpu]
    if name == CUDA:
        return [cuda, cpu]
    options = {
        "device_id": device_id,
        "trt_fp16_enable": precision == "fp16",
        "trt_layer_norm_fp32_fallback": True,
        "trt_op_types_to_exclude": _NOT_FOR_TENSORRT,
    }
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        options |= {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
    return [(TENSORRT, options), cuda, cpu]


def _sample(session: onnxruntime.InferenceSession, users: int) -> dict[str, NDArray[Any]]:
    """Inputs for so many users: histories of one item for one user, of L for more.

    Between two such runs lies every shape to come, so that TensorRT builds engines for all.
    """
    feed: dict[str, NDArray[Any]] = {}
    for given in session.get_inputs():
        shape = [{"B": users, "E": 1}.get(size, size) for size in given.shape]
        whole = "int64" in given.type
        feed[given.name] = np.full(shape, whole, np.int64 if whole else np.float32)
    if users > 1:
        feed["item_seq_len"][:] = feed["item_seq"].shape[1]
    return feed


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
