"""ONNX Runtime sessions: the execution provider, its options, batch sizes and devices."""

import contextlib
import ctypes
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.cores import Threads, thread_count
from model.export.files import CPU_RECOMMENDER, INT8_TABLE, RECOMMENDER
from model.export.quantize import CODES, TILE_ITEMS, without_items
from pipeline.config.score_section import Precision, Provider
from pipeline.errors import BundleError, ConfigError, first_line, memory_failures, raised_as

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

# Left to CUDA: these nodes choose items and delays, for any K and with CUDA's order of ties.
_NOT_FOR_TENSORRT = "TopK,ScatterElements,ScatterND,GatherElements,Expand"

# Users per batch on a CPU. Small catalogue: the encoder is fastest while its layers stay in cache.
# Large catalogue: retrieval is fastest when one pass over the items serves many users.
_SMALL_CATALOGUE, _CPU_BATCH, _CPU_BATCH_LARGE = 2**16, 32, 256
_GPU_BATCH = 4096
# Batches on a GPU at a time: it computes one while others are copied, as tests/benchmarks/gpu.py
# measures.
_GPU_AT_ONCE = 3
# Entries of the (B, V) float32 scores of one batch; on a CPU a 16th of them is in memory at once,
# on a GPU those of `batches_at_once` batches.
_SCORES = {CPU: 2**30, CUDA: 2**28, TENSORRT: 2**28}

_SILENT, _WARNING = 4, 2


def open_session(
    graph: Path,
    provider: Provider,
    *,
    precision: Precision = "fp32",
    device_id: int = 0,
    users: int = 1,
    cache: Path | None = None,
    item_bias: NDArray[np.float32] | None = None,
) -> onnxruntime.InferenceSession:
    """Open a bundle's graph on a provider; on a GPU the session has run once when this returns.

    Args:
        graph: The graph's file; its external data is beside it.
        provider: The provider; `auto` takes CUDA where it works and the CPU elsewhere.
        precision: The graph's precision.
        device_id: The index of the GPU.
        users: The largest number of users in a batch, for which TensorRT builds its engines.
        cache: The folder of TensorRT's engines for this very graph: TensorRT distinguishes graphs
            by their structure, not by their weights.
        item_bias: (V,), that of every run; where it is -inf, a CPU's first pass need not look.
            A run whose bias leaves out more items is faster with codes of its own, where the
            session takes such (`takes_codes`).

    Raises:
        ConfigError: the provider does not work on this machine.
        BundleError: the graph cannot be loaded.
        MemoryShortError: there is not enough memory to load it on a CPU.
    """
    if provider == "auto":
        try:
            return open_session(graph, "cuda", precision=precision, device_id=device_id)
        except ConfigError:
            return open_session(graph, "cpu", item_bias=item_bias)
    name = NAMES[provider]
    if name not in onnxruntime.get_available_providers():
        raise _unusable(provider, f"{name} is not part of this onnxruntime")
    cpu_graph = graph.with_name(CPU_RECOMMENDER)
    if provider == "cpu" and graph.name == RECOMMENDER and cpu_graph.exists():
        graph = cpu_graph
    options = onnxruntime.SessionOptions()
    # On a CPU every core runs batches of its own (`batches_at_once`): cores that share a batch
    # wait for each other at every node, and spin meanwhile. On a GPU only shapes are the CPU's.
    options.intra_op_num_threads = 1
    options.log_severity_level = _SILENT  # errors are exceptions; warnings of the nodes' placement
    with _captured_output() as printed:
        if name != CPU:
            onnxruntime.preload_dlls()
        try:
            if graph.name == CPU_RECOMMENDER and item_bias is not None:
                codes = codes_without(graph, item_bias == -np.inf)
                options.add_external_initializers([CODES], [codes])
            session = onnxruntime.InferenceSession(
                str(graph),
                options,
                providers=_with_options(name, precision, device_id, cache),
                enable_fallback=False,
            )
            if session.get_providers()[0] == name != CPU:
                # A missing library or too old a GPU may only show when the graph runs.
                for batch in (1, users) if name == TENSORRT else (1,):
                    session.run(None, _sample(session, batch))
        except Exception as error:  # onnxruntime's own errors have no common base class
            if name != CPU:
                raise _unusable(provider, printed.getvalue() or error) from error
            with (
                raised_as(
                    BundleError,
                    Exception,
                    "onnxruntime cannot load the graph",
                    str(graph),
                    remedy="Export the model again.",
                    message=first_line,
                ),
                memory_failures(),
            ):
                raise
    if session.get_providers()[0] != name:
        chosen = f"onnxruntime chose {session.get_providers()[0]}"
        raise _unusable(provider, printed.getvalue() or chosen)
    return session


def check_provider(graph: Path, provider: Provider, devices: int | Literal["auto"]) -> None:
    """Check that a provider works here, by running a graph on it, and has so many devices.

    Args:
        graph: The file of any graph.
        provider: The provider; `auto` and `cpu` always work.
        devices: As for `count_devices`.

    Raises:
        ConfigError: it does not, or there are fewer.
    """
    if provider in ("auto", "cpu"):
        return
    name = NAMES[provider]
    if name in onnxruntime.get_available_providers() and not _count_cuda_devices():
        raise _unusable(provider, "there is no CUDA device")
    open_session(graph, provider)
    count_devices(devices, name)


def auto_batch_size(provider: str, n_items: int) -> int:
    """Users per batch: enough to keep the provider busy, with (B, V) scores that fit its memory."""
    batch = _GPU_BATCH
    if provider == CPU:
        batch = _CPU_BATCH if n_items < _SMALL_CATALOGUE else _CPU_BATCH_LARGE
    return max(1, min(batch, _SCORES[provider] // n_items))


def batches_at_once(provider: str, threads: Threads) -> int:
    """The number of batches that a session is given at a time.

    Args:
        provider: ONNX Runtime's name of it.
        threads: Of this process, for batches on a CPU.
    """
    return thread_count(threads) if provider == CPU else _GPU_AT_ONCE


def device_failures(provider: str, users: int) -> AbstractContextManager[None]:
    """Translate what fails on a GPU, which usually is short of memory, into a `ConfigError`.

    Args:
        provider: ONNX Runtime's name of it.
        users: In the batch.
    """
    if provider == CPU:
        return contextlib.nullcontext()
    return raised_as(
        ConfigError,
        Exception,  # onnxruntime's own errors have no common base class
        f"{provider} failed",
        f"a batch of {users} users",
        remedy="Try a smaller score.batch_size, or score.provider = cpu.",
        message=first_line,
    )


def count_devices(requested: int | Literal["auto"], provider: str) -> int:
    """The number of scoring processes; `auto` is one per CUDA device, or one on a CPU.

    Raises:
        ConfigError: more GPUs are requested than there are.
    """
    if requested == 1:
        return 1
    present = 1 if provider == CPU else max(1, _count_cuda_devices())
    if requested == "auto":
        return present
    if provider != CPU and requested > present:  # any number of processes can share a CPU
        raise ConfigError(
            "more devices requested than there are",
            "score.devices",
            expected=f"at most {present}",
            found=str(requested),
            remedy="CUDA_VISIBLE_DEVICES decides which GPUs a process sees.",
        )
    return requested


def takes_codes(session: onnxruntime.InferenceSession) -> bool:
    """Whether runs of a session can be given codes; those of earlier versions cannot."""
    return CODES in {value.name for value in session.get_overridable_initializers()}


def codes_without(graph: Path, left_out: NDArray[np.bool_]) -> onnxruntime.OrtValue:
    """The 8-bit item table of a CPU's first pass without some items.

    Args:
        graph: The file of a recommender, beside that of the table.
        left_out: (V,).
    """
    path = graph.with_name(INT8_TABLE)
    tiles = -(-len(left_out) // TILE_ITEMS)
    code = np.fromfile(path, np.uint8).reshape(tiles, TILE_ITEMS, -1)
    without_items(code, left_out)
    return onnxruntime.OrtValue.ortvalue_from_numpy(code)


def _count_cuda_devices() -> int:
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
    """The providers in order of preference: a node without a kernel in one goes to the next."""
    cpu: tuple[str, dict[str, Any]] = (CPU, {})
    # No TF32: its 10-bit mantissa does not separate the correlations of delays and items' scores.
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
    """Inputs for a trial run: a history of one item for one user, full histories for several.

    The two runs bound every later shape, so that TensorRT builds engines for all of them.
    """
    feed: dict[str, NDArray[Any]] = {}
    for argument in session.get_inputs():
        shape = [{"B": users, "E": 1}.get(size, size) for size in argument.shape]
        is_integer = "int64" in argument.type
        feed[argument.name] = np.full(shape, is_integer, np.int64 if is_integer else np.float32)
    if users > 1:
        feed["item_seq_len"][:] = feed["item_seq"].shape[1]
    return feed


@contextlib.contextmanager
def _captured_output() -> Iterator[io.StringIO]:
    """Capture what onnxruntime prints about missing libraries; our one-line error says it."""
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield printed
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)


def _unusable(provider: str, cause: Exception | str) -> ConfigError:
    return ConfigError(
        f"the execution provider does not work here ({first_line(cause)})",
        "score.provider",
        expected=provider,
        remedy="Install the libraries it needs (for CUDA: pip install "
        "'onnxruntime-gpu[cuda,cudnn]' and a driver), or use --provider cpu or auto.",
    )
