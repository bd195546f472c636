"""The result of evaluate: frozen, and as JSON part of a run's records and of `bundle.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


def headline_metric(topk: Sequence[int]) -> str:
    """The metric that decides: NDCG@10, or NDCG at the smallest k where 10 is not asked for."""
    return f"NDCG@{10 if 10 in topk else min(topk)}"


def headline_of(metrics: Iterable[str]) -> str | None:
    """The headline metric among some; None where there is no NDCG."""
    prefix = "NDCG@"
    topk = [int(name.removeprefix(prefix)) for name in metrics if name.startswith(prefix)]
    return headline_metric(topk) if topk else None


@dataclass(frozen=True)
class PairedDifference:
    """The headline metric of a model, less that of another recommender for the same users.

    Attributes:
        mean: Over all tested users.
        low: The lower end of its 95% interval, from resampling users in pairs.
        high: The upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class TypeMetrics:
    """Metrics of the users with a held-out event of one type, of which only such are relevant.

    Attributes:
        n_users: How many users these are.
        metrics: By the name of the recommender, those that are means over users.
        headline_interval: The 95% interval of the model's headline metric.
    """

    n_users: int
    metrics: Mapping[str, Mapping[str, float]]
    headline_interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluated:
    """The result of evaluate: held-out metrics, keyed ``NDCG@10``, and their protocol.

    Attributes:
        protocol: Split, candidates, masking, length and weights, as text.
        n_users: Users with held-out events.
        n_served: Those for whom the model can score; the others, without any item before the
            test, get the most popular ones and count like everybody in all metrics.
        model: Metrics of the model.
        popularity: Metrics of the most popular items, the same list for every user.
        co_occurrence: Metrics of the items that most often followed the user's last item.
        intervals: 95% intervals of the metrics that are means over users, by the names of the
            three above, and of the champion.
        unknown_seen: Events left out of histories because the model does not know the items.
        unknown_held_out: Held-out events that count as missed for the same reason.
        champion: Metrics of the champion for the same users and events; empty where it was not
            measured.
        champion_version: The champion's model version; None where there is none.
        not_compared: Why the champion was not measured, where there is one.
        differences: The headline metric of the model less that of ``champion``, ``popularity`` and
            ``co_occurrence``.
        champion_then: The champion's headline metric on its own run date, under the same protocol;
            None where there is none to compare with.
        headline_interval: The 95% interval of the model's headline metric.
        n_items: V of the model, PAD included.
        champion_n_items: V of the champion.
        by_event_type: Metrics by the type of the held-out events, where events have types.
        n_not_finite: Users for whom the model has a score that is not a finite number.
    """

    protocol: str
    n_users: int
    n_served: int
    model: Mapping[str, float]
    popularity: Mapping[str, float]
    co_occurrence: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    unknown_seen: int = 0
    unknown_held_out: int = 0
    champion: Mapping[str, float] = field(default_factory=dict)
    champion_version: str | None = None
    not_compared: str | None = None
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)
    champion_then: float | None = None
    headline_interval: tuple[float, float] = (0.0, 0.0)
    n_items: int = 0
    champion_n_items: int = 0
    n_not_finite: int = 0
    by_event_type: Mapping[str, TypeMetrics] = field(default_factory=dict)

    @property
    def headline_k(self) -> int:
        """The k of the headline metric."""
        return int(self.headline[0].removeprefix("NDCG@"))

    @property
    def headline(self) -> tuple[str, float, str, float]:
        """NDCG@10 (or at the smallest k asked for): its name, the model's, the better baseline's.

        Returns:
            The metric, the model's value, the baseline's name and its value.
        """
        name = headline_of(self.model)
        assert name is not None
        popularity, co_occurrence = self.popularity[name], self.co_occurrence[name]
        if co_occurrence > popularity:
            return name, self.model[name], "co-occurrence", co_occurrence
        return name, self.model[name], "popularity", popularity
