"""The recommender in a session: from a batch of users to their best items."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import lru_cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.cores import Threads
from model.export.quantize import CODES
from pipeline.bundles.sessions import (
    CPU,
    TENSORRT,
    auto_batch_size,
    batches_at_once,
    codes_without,
    device_failures,
    open_session,
    takes_codes,
)
from pipeline.config.score_section import Precision, Provider
from pipeline.errors import BundleError
from pipeline.scoring.batches import ScoringBatch

# Item indices (B, K) and scores (B, K), and users' embeddings (B, D) if they are asked for.
TopItems = tuple[NDArray[Any], ...]

OUTPUTS = ("item_index", "score")
USER_EMBEDDING = "user_embedding"

_SHAPES = 16  # the number of batch shapes whose buffers are kept on the device
_LEAST_EXCLUDED = 16  # columns


class Recommender:
    """`recommender.onnx` in a session; the item table and `item_bias` stay on the device.

    Args:
        session: The session; one on a GPU has run once.
        item_bias: (V,) float32.
        top_k: K.
        batch_size: The largest number of users in a batch.
        device_id: The index of the GPU.
        threads: Of this process, for batches on a CPU.
        graph: The graph's file.

    Attributes:
        cores: Runs batches, `at_once` at a time.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        item_bias: NDArray[np.float32],
        top_k: int,
        batch_size: int,
        device_id: int = 0,
        threads: Threads = "auto",
        graph: Path | None = None,
    ) -> None:
        self.session = session
        self.graph = graph
        self.batch_size = batch_size
        self.at_once = batches_at_once(self.provider, threads)
        self.cores = ThreadPoolExecutor(self.at_once)
        self.where = ("cpu" if self.provider == CPU else "cuda", device_id)
        self.item_bias = onnxruntime.OrtValue.ortvalue_from_numpy(item_bias, *self.where)
        self.codes: onnxruntime.OrtValue | None = None  # those of the session
        # In the CPU's memory, where every provider expects K.
        self.k = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([top_k], np.int64))
        self.outputs: tuple[str, ...] = OUTPUTS
        self._make_buffers()

    def giving(self, top_k: int, *, embeddings: bool) -> "Recommender":
        """The same recommender with another K, and perhaps with users' embeddings as an output.

        Raises:
            BundleError: the bundle is of an earlier version, whose graph does not give embeddings.
        """
        other = copy(self)
        other.k = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([top_k], np.int64))
        other.outputs = (*OUTPUTS, USER_EMBEDDING) if embeddings else OUTPUTS
        if not {output.name for output in self.session.get_outputs()}.issuperset(other.outputs):
            raise BundleError(
                "the bundle is of a version before promotions",
                expected=f"the output {USER_EMBEDDING} of the recommender",
                remedy="Train and export the model again, or score without score.promotion and"
                " score.new_items.",
            )
        other._make_buffers()
        return other

    def with_bias(self, item_bias: NDArray[np.float32]) -> "Recommender":
        """The same recommender with another bias, (V,), which leaves out more items."""
        other = copy(self)
        other.item_bias = onnxruntime.OrtValue.ortvalue_from_numpy(item_bias, *self.where)
        if self.graph is not None and takes_codes(self.session):
            other.codes = codes_without(self.graph, item_bias == -np.inf)
        return other

    @property
    def top_k(self) -> int:
        """K."""
        return int(self.k.numpy()[0])

    def _make_buffers(self) -> None:
        # Whoever runs a batch on a GPU takes one of the sets of buffers, and puts it back. They are
        # made for a copy, as what refers to itself stays in memory until Python looks for cycles.
        make = partial(Buffers, copy(self))
        self._buffers: SimpleQueue[Callable[[int, int], Buffers]] = SimpleQueue()
        for _ in range(self.at_once):
            self._buffers.put(lru_cache(_SHAPES)(make))

    @property
    def provider(self) -> str:
        """The execution provider in use, such as CUDAExecutionProvider."""
        return str(self.session.get_providers()[0])

    def __call__(self, batch: ScoringBatch) -> TopItems:
        """The best items for a batch; `at_once` threads may call this at once.

        Returns:
            item_index (B, K) int64 and score (B, K) float32, best first; index 0 and score -inf
            where fewer than K items are eligible. Then the user embeddings (B, D) float32, if
            they are given.

        Raises:
            ConfigError: the GPU fails, usually because its memory is full.
        """
        if self.provider == CPU:
            binding = self.session.io_binding()
            binding.bind_cpu_input("item_seq", batch.item_seq)
            binding.bind_cpu_input("item_seq_len", batch.item_seq_len)
            binding.bind_cpu_input("exclude", batch.exclude)
            binding.bind_ortvalue_input("item_bias", self.item_bias)
            binding.bind_ortvalue_input("k", self.k)
            if self.codes is not None:
                binding.bind_ortvalue_input(CODES, self.codes)
            for name in self.outputs:
                binding.bind_output(name)
            self.session.run_with_iobinding(binding)
            return tuple(binding.copy_outputs_to_cpu())
        users, excluded = batch.exclude.shape
        with device_failures(self.provider, users):
            buffers = self._buffers.get()
            try:
                return buffers(_rows(users), _columns(excluded)).run(batch, self.item_bias)
            finally:
                self._buffers.put(buffers)


class Buffers:
    """Inputs and outputs on the device for batches up to one shape, allocated and bound once.

    Args:
        recommender: The recommender that runs the batches.
        users: Rows; rows beyond a smaller batch hold stale values, and their results are ignored.
        excluded: Columns of `exclude`.
    """

    def __init__(self, recommender: Recommender, users: int, excluded: int) -> None:
        self._session = recommender.session
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        length = next(x.shape[1] for x in self._session.get_inputs() if x.name == "item_seq")
        # Start with valid dummy rows: users with empty histories.
        self._staged = {
            "item_seq": np.zeros((users, length), np.int64),
            "item_seq_len": np.ones(users, np.int64),
            "exclude": np.zeros((users, excluded), np.int64),
        }
        self._inputs = {
            name: make(values.shape, np.int64, *recommender.where)
            for name, values in self._staged.items()
        }
        widths = {x.name: x.shape[1] for x in self._session.get_outputs()}
        widths |= dict.fromkeys(OUTPUTS, recommender.top_k)
        self._outputs = [
            make(
                (users, widths[name]),
                np.int64 if name == "item_index" else np.float32,
                *recommender.where,
            )
            for name in recommender.outputs
        ]
        self._binding = self._session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_input("k", recommender.k)
        for name, value in zip(recommender.outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self, batch: ScoringBatch, item_bias: onnxruntime.OrtValue) -> TopItems:
        """The best items by a bias on the device, for a batch no larger than the buffers."""
        users, excluded = batch.exclude.shape
        self._staged["item_seq"][:users] = batch.item_seq
        self._staged["item_seq_len"][:users] = batch.item_seq_len
        self._staged["exclude"][:users, :excluded] = batch.exclude
        self._staged["exclude"][:users, excluded:] = 0
        for name, value in self._inputs.items():
            value.update_inplace(self._staged[name])
        self._binding.bind_ortvalue_input("item_bias", item_bias)
        self._session.run_with_iobinding(self._binding)
        # Copied, because numpy() on a CPU is a view of the buffer.
        found = tuple(output.numpy()[:users].copy() for output in self._outputs)
        sort_ties(*found[:2])
        return found


def sort_ties(item_index: NDArray[np.int64], score: NDArray[np.float32]) -> None:
    """Order items of equal score by index, in place: some of CUDA's sorts leave them unordered.

    Args:
        item_index: (B, K).
        score: (B, K), descending.
    """
    tied = ((score[:, 1:] == score[:, :-1]) & (score[:, 1:] > -np.inf)).any(axis=1).nonzero()[0]
    order = np.lexsort((item_index[tied], -score[tied]), axis=1)
    item_index[tied] = np.take_along_axis(item_index[tied], order, axis=1)


def load_recommender(
    graph: Path,
    provider: Provider,
    *,
    item_bias: NDArray[np.float32],
    top_k: int,
    batch_size: int | Literal["auto"] = "auto",
    precision: Precision = "fp32",
    device_id: int = 0,
    threads: Threads = "auto",
    cache: Path | None = None,
) -> Recommender:
    """Open a recommender on a provider.

    Args:
        graph: As for `open_session`.
        provider: As for `open_session`.
        item_bias: (V,) float32, 0 where an item is eligible, -inf where it is not.
        top_k: K.
        batch_size: Users per batch; `auto` is `auto_batch_size`.
        precision: As for `open_session`.
        device_id: As for `open_session`.
        threads: As for `Recommender`.
        cache: As for `open_session`.

    Raises:
        ConfigError: the provider does not work on this machine.
        BundleError: the graph cannot be loaded.
    """

    def users(name: str) -> int:
        return auto_batch_size(name, len(item_bias)) if batch_size == "auto" else batch_size

    session = open_session(
        graph,
        provider,
        precision=precision,
        device_id=device_id,
        users=users(TENSORRT),
        cache=cache,
        item_bias=item_bias,
    )
    batch = users(session.get_providers()[0])
    return Recommender(session, item_bias, top_k, batch, device_id, threads, graph)


def _rows(users: int) -> int:
    """The number rounded up by at most an eighth: few shapes, little wasted work."""
    step = 1 << max(0, users.bit_length() - 4)
    return -(-users // step) * step


def _columns(excluded: int) -> int:
    """The number rounded up to a power of two."""
    return max(_LEAST_EXCLUDED, 1 << max(0, excluded - 1).bit_length())
