"""The column `because`: for every listed item, the item of the user's history nearest to it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.cores import Threads, thread_count
from pipeline.schema import PAD
from pipeline.scoring.batches import pad
from pipeline.scoring.user_histories import Integers, UserHistories

_FLOATS = 2**21  # gathered at a time by each thread
_ROWS = 2**16


@dataclass(frozen=True)
class NearestHistory:
    """Finds the item of a history that stands for a listed item: the nearest by its embedding.

    Nearest is the one with the largest cosine, as a float32, of both items' rows in the item table,
    among the last L items, which are those that the model reads; of equal ones the most recent. The
    cosine and not the product, with which popular items, whose rows are long, would be named for
    nearly everything.

    Attributes:
        table: (V, D) float32, which may be mapped.
        norms: (V,) float64, of its rows; 1 where a row is all zeros, whose cosine is 0.
        max_length: L.
        threads: Of this process.
    """

    table: NDArray[np.float32]
    norms: NDArray[np.float64]
    max_length: int
    threads: int

    @classmethod
    def over(
        cls, table: NDArray[np.float32], max_length: int, threads: Threads
    ) -> "NearestHistory":
        """Of a model with this item table."""
        norms = np.empty(len(table))
        for begin in range(0, len(table), _ROWS):
            part = table[begin : begin + _ROWS].astype(np.float64)
            norms[begin : begin + _ROWS] = np.sqrt((part * part).sum(axis=1))
        norms[norms == 0] = 1
        return cls(table, norms, max_length, thread_count(threads))

    def __call__(self, histories: UserHistories, listed: Integers) -> Integers:
        """The item of each user's history that is nearest to each listed item.

        Args:
            histories: Of N users.
            listed: (N, K), PAD for none.

        Returns:
            (N, K) int64; PAD beside PAD, and for users without history.
        """
        found = np.full(listed.shape, PAD, np.int64)
        histories = histories.inputs()
        read = np.minimum(histories.lengths, self.max_length)
        order = np.argsort(read, kind="stable")  # of similar length together
        order = order[read[order] > 0]
        size = max(1, _FLOATS // ((self.max_length + listed.shape[1]) * self.table.shape[1]))

        def find(users: Integers) -> None:
            width = int(read[users].max())
            own = pad(histories.items, histories.offsets[1:][users], read[users], width)
            cosine = self._cosines(listed[users], own)
            cosine[np.broadcast_to((own == PAD)[:, None], cosine.shape)] = -np.inf
            place = width - 1 - cosine[:, :, ::-1].argmax(axis=2)  # the last of equal ones
            nearest = np.take_along_axis(own, place, axis=1)
            found[users] = np.where(listed[users] == PAD, PAD, nearest)

        with ThreadPoolExecutor(self.threads) as cores:
            parts = [order[begin : begin + size] for begin in range(0, len(order), size)]
            for _ in cores.map(find, parts):
                pass
        return found

    def _cosines(self, listed: Integers, own: Integers) -> NDArray[np.float32]:
        """(B, K, L) of listed (B, K) and own items (B, L)."""
        # In float64: equal vectors get equal cosines, whatever the place in the product.
        one, other = (self.table[items].astype(np.float64) for items in (listed, own))
        product = one @ other.swapaxes(1, 2)
        product /= self.norms[listed][:, :, None] * self.norms[own][:, None]
        return product.astype(np.float32)
