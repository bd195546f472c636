"""The recommender in a session: a batch of users in, their best items out."""

import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.bundles.sessions import (
    CPU,
    TENSORRT,
    Precision,
    Provider,
    auto_batch_size,
    open_session,
)
from pipeline.scoring.user_histories import ScoringBatch

Found = tuple[NDArray[np.int64], NDArray[np.float32]]

_SHAPES = 16  # of batches, whose buffers are kept on the device
_LEAST_EXCLUDED = 16  # columns


class Recommender:
    """`recommender.onnx` in a session, its item table and item_bias resident on the device.

    Args:
        session: Has run, where it is on a device.
        item_bias: (V,).
        top_k: K.
        batch_size: Users a batch, at most.
        device_id: Which of several devices.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        item_bias: NDArray[np.float32],
        top_k: int,
        batch_size: int,
        device_id: int = 0,
    ) -> None:
        self.session = session
        self.batch_size = batch_size
        self.where = ("cpu" if self.provider == CPU else "cuda", device_id)
        self.item_bias = onnxruntime.OrtValue.ortvalue_from_numpy(item_bias, *self.where)
        # On the CPU, where every provider wants it.
        self.k = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([top_k], np.int64))
        self._buffers = lru_cache(_SHAPES)(partial(Buffers, self))

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

    def __call__(self, batch: ScoringBatch) -> Found:
        """Recommend to a batch; not by two threads at once, except on a CPU.

        Returns:
            item_index (B, K) int64 and score (B, K) float32, best first; index 0 where fewer
            than K items are eligible.

        Raises:
            ConfigError: the device gives up, for want of memory as a rule.
        """
        if self.provider == CPU:
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
        users, excluded = batch.exclude.shape
        try:
            return self._buffers(_rows(users), _columns(excluded)).run(batch)
        except Exception as error:  # onnxruntime's own errors have no common base class
            raise ConfigError(
                f"{self.provider} gave up: {str(error).strip().splitlines()[0]}",
                f"a batch of {users} users",
                remedy="Try a smaller --batch-size, or --provider cpu.",
            ) from None


class Buffers:
    """The inputs and outputs of batches of one shape, made once and bound.

    Args:
        recommender: Whose.
        users: Rows; smaller batches leave some to chance.
        excluded: Columns of `exclude`.
    """

    def __init__(self, recommender: Recommender, users: int, excluded: int) -> None:
        self._session = recommender.session
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        length = next(x.shape[1] for x in self._session.get_inputs() if x.name == "item_seq")
        # What no batch has written yet are users who met nothing but PAD.
        self._staged = {
            "item_seq": np.zeros((users, length), np.int64),
            "item_seq_len": np.ones(users, np.int64),
            "exclude": np.zeros((users, excluded), np.int64),
        }
        self._inputs = {
            name: make(values.shape, np.int64, *recommender.where)
            for name, values in self._staged.items()
        }
        shape = users, int(recommender.k.numpy()[0])
        self._item_index = make(shape, np.int64, *recommender.where)
        self._score = make(shape, np.float32, *recommender.where)
        self._binding = self._session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_input("item_bias", recommender.item_bias)
        self._binding.bind_ortvalue_input("k", recommender.k)
        self._binding.bind_ortvalue_output("item_index", self._item_index)
        self._binding.bind_ortvalue_output("score", self._score)

    def run(self, batch: ScoringBatch) -> Found:
        """Recommend to a batch that is no larger."""
        users, excluded = batch.exclude.shape
        self._staged["item_seq"][:users] = batch.item_seq
        self._staged["item_seq_len"][:users] = batch.item_seq_len
        self._staged["exclude"][:users, :excluded] = batch.exclude
        self._staged["exclude"][:users, excluded:] = 0
        for name, value in self._inputs.items():
            value.update_inplace(self._staged[name])
        self._session.run_with_iobinding(self._binding)
        # Copies: on a CPU, numpy() is the buffer itself.
        return self._item_index.numpy()[:users].copy(), self._score.numpy()[:users].copy()


def load_recommender(
    graph: Path,
    provider: Provider,
    *,
    item_bias: NDArray[np.float32],
    top_k: int,
    batch_size: int | Literal["auto"] = "auto",
    precision: Precision = "fp32",
    device_id: int = 0,
    cache: Path | None = None,
) -> Recommender:
    """Open a recommender on the provider asked for.

    Args:
        graph: As `provider`, `precision`, `device_id` and `cache` of `open_session`.
        provider: See there.
        item_bias: (V,) 0 where an item is eligible, -inf where it is not.
        top_k: K.
        batch_size: Users a batch; `auto` suits the provider and the catalogue.
        precision: See there.
        device_id: See there.
        cache: See there.

    Raises:
        ConfigError: the provider asked for does not work here.
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
    )
    return Recommender(session, item_bias, top_k, users(session.get_providers()[0]), device_id)


def _rows(users: int) -> int:
    """Rounded up by an eighth at most: few shapes, little work in vain."""
    step = 1 << max(0, users.bit_length() - 4)
    return -(-users // step) * step


def _columns(excluded: int) -> int:
    """Rounded up to a power of two."""
    return max(_LEAST_EXCLUDED, 1 << max(0, excluded - 1).bit_length())
