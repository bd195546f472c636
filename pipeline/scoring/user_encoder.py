"""The embeddings of users: their histories through a bundle's encoder."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import (
    TENSORRT,
    auto_batch_size,
    batches_at_once,
    device_failures,
    open_session,
)
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import BundleError
from pipeline.scoring.batches import pad
from pipeline.scoring.user_histories import PART_USERS, Integers, UserHistories, split_parts

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddedUsers:
    """Those users of a part who have an embedding.

    Attributes:
        position: (N,) the users' positions among all users, from 0.
        histories: Of N users, each with an item that the bundle knows.
        embedding: (N, D) float32.
        n_done: All users so far, those without an embedding included.
    """

    position: Integers
    histories: UserHistories
    embedding: Floats
    n_done: int


@dataclass(frozen=True)
class UserEncoder:
    """A bundle's encoder in its session.

    Attributes:
        session: The session.
        width: D.
        max_length: L.
        batch_size: Users per batch.
        at_once: Batches at a time.
        cores: Runs batches, `at_once` at a time.
    """

    session: onnxruntime.InferenceSession
    width: int
    max_length: int
    batch_size: int
    at_once: int
    cores: ThreadPoolExecutor

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        width: int,
        settings: ScoreSettings,
        *,
        device_id: int = 0,
        cache: Path | None = None,
    ) -> "UserEncoder":
        """Open a bundle's encoder, which is in float32 whatever the precision of the settings.

        Args:
            bundle: The model.
            width: D.
            settings: `provider`, `batch_size` and `threads` are used.
            device_id: The index of the GPU.
            cache: The folder of TensorRT's engines for this very graph.

        Raises:
            ConfigError: the provider does not work on this machine.
            BundleError: the graph cannot be loaded, or `bundle.json` describes another.
        """

        def users(provider: str) -> int:
            # The catalogue does not count: there are no scores here.
            size = settings.batch_size
            return auto_batch_size(provider, n_items=1) if size == "auto" else size

        session = open_session(
            bundle.encoder,
            settings.provider,
            device_id=device_id,
            users=users(TENSORRT),
            cache=cache,
        )
        bundle.check_description(session)
        provider = session.get_providers()[0]
        at_once = batches_at_once(provider, settings.threads)
        cores = ThreadPoolExecutor(at_once)
        return cls(session, width, bundle.max_length, users(provider), at_once, cores)

    @property
    def provider(self) -> str:
        """The execution provider in use, such as CUDAExecutionProvider."""
        return str(self.session.get_providers()[0])

    def parts(self, histories: Iterable[UserHistories]) -> Iterator[EmbeddedUsers]:
        """The embeddings of everybody, part by part; users without a known item are left out.

        Raises:
            BundleError: an embedding is NaN or infinite.
            ConfigError: the device fails.
        """
        first = 0
        for part in split_parts(histories, PART_USERS):
            known = part.inputs().lengths > 0
            users = part.filter(known)
            position = first + np.flatnonzero(known)
            first += len(part)
            yield EmbeddedUsers(position, users, self(users), first)

    def __call__(
        self, histories: UserHistories, progress: Callable[[int], None] = lambda users: None
    ) -> Floats:
        """The embeddings (N, D) of N users, each of whom has an item.

        Args:
            histories: Of N users.
            progress: Is called with the number of users of every finished batch.

        Raises:
            BundleError: an embedding is NaN or infinite.
            ConfigError: the device fails.
        """
        read = histories.inputs()
        # Of similar length together: a batch costs as much as its longest sequence.
        lengths = np.minimum(read.lengths, self.max_length)
        order = np.argsort(-lengths, kind="stable")
        batches = [
            order[begin : begin + self.batch_size]
            for begin in range(0, len(order), self.batch_size)
        ]
        embedding = np.empty((len(histories), self.width), np.float32)

        def run(rows: Integers) -> None:
            ends = read.offsets[1:][rows]
            item_seq = pad(read.items, ends, lengths[rows], self.max_length)
            feed = {"item_seq": item_seq, "item_seq_len": lengths[rows]}
            with device_failures(self.provider, len(rows)):
                (embedding[rows],) = self.session.run(["user_embedding"], feed)

        for rows, _ in zip(batches, self.cores.map(run, batches), strict=True):
            progress(len(rows))
        if not np.isfinite(embedding).all():
            raise BundleError(
                "the model computes embeddings that are NaN or infinite",
                remedy="The training diverged: train and export the model again.",
            )
        return embedding
