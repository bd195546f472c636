"""What each stage returns: frozen, and as JSON part of a run's records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Ingested:
    """The result of ingest.

    Attributes:
        interactions_id: Identifies the `interactions` table; one created anew has another.
        interactions_version: Version of that table afterwards.
        files: Log files read; those already known are not.
        rows: Rows read from them.
        added: Rows new in `interactions`, those released from quarantine among them.
        duplicates: Good rows not added because they are there already.
        quarantined: Rows new in `quarantine`.
        withdrawn: Events taken out of `interactions` because the file that had them has them no
            longer, or is read by other columns or in another unit of time.
        quarantined_by_reason: The rows new in `quarantine`, by the reason.
    """

    interactions_id: str
    interactions_version: int
    files: int
    rows: int
    added: int
    duplicates: int
    quarantined: int
    withdrawn: int
    quarantined_by_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """The result of prepare: what one run trains on and scores from.

    Attributes:
        folder: Holds `SEQUENCES_FILE` and `ITEMS_FILE` (see `pipeline.schema`).
        content_hash: sha256 of the content of these two files.
        interactions_version: Version of the `interactions` table it was made from.
        vocabulary_id: Identifies the `vocabulary` table that the indices come from; one created
            anew has another.
        n_users: Users with an event up to the run date.
        n_items: Size of the vocabulary, PAD included (V).
        n_interactions: Events up to the run date.
        first_event: Time of the first of them.
        last_event: Time of the last of them.
        left_out_users: Users of whom k-core filtering kept no event; the counts and times above
            are of what it kept.
        left_out_items: Items likewise. An item that has an index keeps it.
        left_out_interactions: Events it did not keep.
    """

    folder: Path
    content_hash: str
    interactions_version: int
    vocabulary_id: str
    n_users: int
    n_items: int
    n_interactions: int
    first_event: datetime
    last_event: datetime
    left_out_users: int = 0
    left_out_items: int = 0
    left_out_interactions: int = 0


@dataclass(frozen=True)
class Check:
    """One check of a run's data, or of its recommendations before they are published.

    Attributes:
        name: The setting that has its limit, such as ``quarantined_share``.
        outcome: ``passed``, ``warned``, ``held``, or ``overruled`` where it would have held the
            run but publishing was forced.
        message: What was found beside what was expected, in one line.
        value: What was found, where it is a number.
        limit: The value from which on the check fails.
    """

    name: str
    outcome: Literal["passed", "warned", "held", "overruled"]
    message: str
    value: float | None = None
    limit: float | None = None

    def overruled(self) -> "Check":
        """The same, where it may not hold the run."""
        return replace(self, outcome="overruled") if self.outcome == "held" else self


def held_by(checks: Iterable[Check]) -> tuple[str, ...]:
    """The messages of the checks that hold a run."""
    return tuple(check.message for check in checks if check.outcome == "held")


@dataclass(frozen=True)
class Checked:
    """The result of the checks of the data.

    Attributes:
        checks: Each check.
        realised: How often the last published lists held what users took since, beside the most
            popular items: see `pipeline.evaluation.realised`. Empty where nothing is known.
    """

    checks: tuple[Check, ...] = ()
    realised: Mapping[str, float] = field(default_factory=dict)

    @property
    def held_by(self) -> tuple[str, ...]:
        """The messages of the checks that hold the run."""
        return held_by(self.checks)

    def overruled(self) -> "Checked":
        """The same, where nothing holds the run."""
        return replace(self, checks=tuple(check.overruled() for check in self.checks))


@dataclass(frozen=True)
class Trained:
    """The result of train.

    Attributes:
        folder: Holds `model.safetensors`, the weights to publish, and `held_out.safetensors`,
            those that never saw the held-out items: they are evaluated, and the next run's
            training starts from them, so that its own held-out items are new to it.
        best_epoch: Epochs until the best validation; the refit trains as many.
        valid_ndcg_at_10: NDCG@10 of that epoch; None where no user has enough interactions to
            validate on.
        parent: The model version that training started from.
        refit: Whether the weights to publish were trained on the held-out items too.
        content_hashes: sha256 of the two files, by name.
    """

    folder: Path
    best_epoch: int
    valid_ndcg_at_10: float | None
    parent: str | None
    refit: bool
    content_hashes: Mapping[str, str] = field(default_factory=dict)


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
            three above.
        unknown_seen: Events left out of histories because the model does not know the items.
        unknown_held_out: Held-out events that count as missed for the same reason.
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

    @property
    def headline(self) -> tuple[str, float, str, float]:
        """NDCG@10 (or at the smallest k asked for): its name, the model's, the better baseline's.

        Returns:
            The metric, the model's value, the baseline's name and its value.
        """
        names = (name for name in self.model if name.startswith("NDCG"))
        name = min(names, key=lambda name: name != "NDCG@10")
        popularity, co_occurrence = self.popularity[name], self.co_occurrence[name]
        if co_occurrence > popularity:
            return name, self.model[name], "co-occurrence", co_occurrence
        return name, self.model[name], "popularity", popularity


@dataclass(frozen=True)
class Float16Check:
    """How far float16 recommendations are from float32 ones.

    Attributes:
        ndcg: NDCG@10 of each user's last item, float32's minus float16's. The refitted model has
            learned these items: only the difference counts.
        agreement: Share of the top 10 in float32 that are in float16's top 10 too.
        sequences: Users compared.
    """

    ndcg: float
    agreement: float
    sequences: int


@dataclass(frozen=True)
class Exported:
    """The result of export.

    Attributes:
        bundle: The published bundle's folder on this machine.
        model_version: Its name.
        parity_error: Largest absolute difference between the graph's and PyTorch's embeddings.
        parity_sequences: Sequences compared.
        near_ties: Sequences left out of the comparison because their delays are tied to rounding.
        fp16: How the float16 recommender compares, where one was exported.
    """

    bundle: Path
    model_version: str
    parity_error: float
    parity_sequences: int
    near_ties: int
    fp16: Float16Check | None = None


@dataclass(frozen=True)
class Gated:
    """The result of the gate: which model serves, and why.

    Attributes:
        decision: ``first``, ``promoted``, ``held``, ``forced`` or ``rolled back``.
        reasons: Why the run's own model does not serve, or would not if it were not forced.
        model_version: The model that serves.
        bundle: Its folder on this machine.
        candidate: The version of the run's own model; None of a run that trained none.
        champion: The version of the champion before this run; None of the first.
    """

    decision: str
    reasons: tuple[str, ...]
    model_version: str
    bundle: Path
    candidate: str | None
    champion: str | None


@dataclass(frozen=True)
class Scored:
    """The result of score: its output, and what was left out of its input.

    Attributes:
        folder: The output's path or URI.
        model_version: The bundle's model version.
        provider: The execution provider, such as CUDAExecutionProvider.
        precision: fp32 or fp16.
        devices: The number of scoring processes.
        n_users: Users in the output, those from before a resumption included.
        n_rows: Rows in the output.
        n_fallback: Users without a known item, who got popular items.
        n_short: Users with fewer than `top_k` items.
        dropped: Rows that break a row rule, by reason.
        duplicates: Exact repeats of (user, item, timestamp), of which one is kept.
        unknown_items: Events with items that the bundle does not know, left out.
        unknown_listed: Ids in the allow and deny files that the bundle does not know.
        absent_users: Users of the list of users who have no row.
        skipped_files: Unreadable files that were left out.
        seconds: From the call to the last row.
        users_per_second: Users scored in this run per second of scoring.
    """

    folder: str
    model_version: str
    provider: str
    precision: str
    devices: int
    n_users: int
    n_rows: int
    n_fallback: int
    n_short: int
    dropped: Mapping[str, int]
    duplicates: int
    unknown_items: int
    unknown_listed: int
    absent_users: int
    skipped_files: tuple[str, ...]
    seconds: float
    users_per_second: float


@dataclass(frozen=True)
class Published:
    """The result of publish.

    Attributes:
        table: Path or URI of the `recommendations` table.
        table_id: Identifies the table; one created anew in its place has another.
        version: The table's version afterwards.
        n_rows: Rows of the run date.
        n_users: Users they are for.
        checks: The checks that the rows passed before.
    """

    table: str
    table_id: str
    version: int
    n_rows: int
    n_users: int
    checks: tuple[Check, ...] = ()
