"""The embeddings of users: their histories through a bundle's encoder."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import onnxruntime

from model.cores import thread_count
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.sessions import CPU, auto_batch_size, open_session
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import BundleError, ConfigError, first_line, raised_as
from pipeline.related.running_top import Floats, Integers
from pipeline.scoring.batches import pad
from pipeline.scoring.user_histories import PART_USERS, UserHistories, split_parts

_GPU_AT_ONCE = 3  # batches: as in scoring


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
    """

    session: onnxruntime.InferenceSession
    width: int
    max_length: int
    batch_size: int
    at_once: int

    @classmethod
    def load(cls, bundle: Bundle, width: int, settings: ScoreSettings) -> "UserEncoder":
        """Open a bundle's encoder.

        Args:
            bundle: The model.
            width: D.
            settings: `provider`, `batch_size` and `threads` are used.

        Raises:
            ConfigError: the provider does not work on this machine.
            BundleError: the graph cannot be loaded, or `bundle.json` describes another.
        """
        session = open_session(bundle.encoder, settings.provider)
        bundle.check_description(session)
        provider, size = session.get_providers()[0], settings.batch_size
        return cls(
            session,
            width,
            bundle.max_length,
            # The catalogue does not count: there are no scores here.
            auto_batch_size(provider, 1) if size == "auto" else size,
            thread_count(settings.threads) if provider == CPU else _GPU_AT_ONCE,
        )

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

    def __call__(self, histories: UserHistories) -> Floats:
        """The embeddings (N, D) of N users, each of whom has an item.

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
            with self._failures(len(rows)):
                (embedding[rows],) = self.session.run(["user_embedding"], feed)

        with ThreadPoolExecutor(self.at_once) as pool:
            for _ in pool.map(run, batches):
                pass
        if not np.isfinite(embedding).all():
            raise BundleError(
                "the model computes embeddings that are NaN or infinite",
                remedy="The training diverged: train and export the model again.",
            )
        return embedding

    def _failures(self, users: int) -> AbstractContextManager[None]:
        provider = self.session.get_providers()[0]
        if provider == CPU:
            return nullcontext()
        return raised_as(
            ConfigError,
            Exception,  # onnxruntime's own errors have no common base class
            f"{provider} failed",
            f"a batch of {users} users",
            remedy="Try a smaller score.batch_size, or score.provider = cpu.",
            message=first_line,
        )
