"""Sums of metrics over users, in memory that does not grow with the users under leave-one-out."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.evaluation.metrics import bootstrap_intervals, catalogue_metrics
from pipeline.results.evaluated import PairedDifference, headline_metric

_PENDING = 2**14  # rows that are kept before they are merged, at most

Rows = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class DistinctRows:
    """The distinct rows among all that were added, and how often each occurs.

    They are sorted, so nothing depends on the order in which rows were added. Memory is bounded
    by the number of distinct rows.
    """

    def __init__(self) -> None:
        self._rows: list[Rows] = []
        self._counts: list[Counts] = []
        self._limit = _PENDING

    def add(self, rows: Rows) -> None:
        """Add rows float64 (B, M)."""
        distinct, counts = np.unique(rows, axis=0, return_counts=True)
        self._rows.append(distinct)
        self._counts.append(counts)
        if sum(map(len, self._rows)) > self._limit:
            self._limit = 2 * len(self.merged()[0]) + _PENDING

    def merged(self) -> tuple[Rows, Counts]:
        """The distinct rows float64 (G, M), and how often each was added, int64 (G,)."""
        every, counts = np.concatenate(self._rows), np.concatenate(self._counts)
        rows, kinds = np.unique(every, axis=0, return_inverse=True)
        summed = np.bincount(kinds.reshape(-1), counts).astype(np.int64)
        self._rows, self._counts = [rows], [summed]
        return rows, summed


class MetricSums:
    """Sums of one scorer's metrics, kept without the lists.

    It keeps the distinct metrics of users with the number of users who have them, the distinct
    pairs of the headline metric of a first scorer and of this one, and how often each item was
    listed.
    """

    def __init__(self, topk: tuple[int, ...], n_items: int | None = None) -> None:
        """Begin with nothing.

        Args:
            topk: The k of the metrics.
            n_items: V, of the scorer; None leaves out the metrics of the catalogue.
        """
        self.n_users = 0
        self.n_not_finite = 0  # users with a score that is not a finite number
        self._topk = topk
        self._names: list[str] = []
        self._users = DistinctRows()
        self._pairs = DistinctRows()
        counted = () if n_items is None else topk
        self._listed = {k: torch.zeros(n_items or 0, dtype=torch.int64) for k in counted}

    def add(self, lists: Tensor, metrics: Mapping[str, Tensor], first: Tensor) -> None:
        """Count a batch of B users.

        Args:
            lists: int64 (B, K).
            metrics: float64 (B,) by name, of these lists.
            first: float64 (B,), the headline metric of the first scorer's lists.
        """
        self.n_users += len(lists)
        self._names = list(metrics)
        self._users.add(torch.stack(list(metrics.values()), 1).numpy())
        self._pairs.add(torch.stack([first, metrics[headline_metric(self._topk)]], 1).numpy())
        for k, listed in self._listed.items():
            listed += torch.bincount(lists[:, :k].flatten(), minlength=len(listed))

    def user_means(self) -> dict[str, float]:
        """The metrics that are means over users, by their names."""
        rows, counts = self._users.merged()
        return dict(zip(self._names, (counts @ rows / counts.sum()).tolist(), strict=True))

    def means(self, popularity: Tensor) -> dict[str, float]:
        """Every metric by its name, given the popularity in training, int64 (V,)."""
        of_lists = {
            k: catalogue_metrics(times, popularity, self.n_users)
            for k, times in self._listed.items()
        }
        return self.user_means() | {
            f"{name}@{k}": of_lists[k][name]
            for name in next(iter(of_lists.values()))
            for k in self._topk
        }

    def intervals(self, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
        """95% intervals of the metrics that are means over users; empty without resamples."""
        if not resamples:
            return {}
        low, high = bootstrap_intervals(*self._users.merged(), resamples, seed).tolist()
        return dict(zip(self._names, zip(low, high, strict=True), strict=True))

    def headline_interval(self, resamples: int, seed: int) -> tuple[float, float]:
        """The 95% interval of the headline metric of the first scorer."""
        pairs, counts = self._pairs.merged()
        (low,), (high,) = bootstrap_intervals(pairs[:, :1], counts, resamples, seed).tolist()
        return low, high

    def difference(self, resamples: int, seed: int) -> PairedDifference:
        """The headline metric of the first scorer less this one's, by a paired bootstrap."""
        pairs, counts = self._pairs.merged()
        differences = pairs[:, :1] - pairs[:, 1:]
        (low,), (high,) = bootstrap_intervals(differences, counts, resamples, seed).tolist()
        return PairedDifference(float(counts @ differences[:, 0] / counts.sum()), low, high)
