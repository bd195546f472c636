"""The results of `fearec related`, `embeddings` and `audience`."""

from dataclasses import dataclass, field
from datetime import date


@dataclass(frozen=True)
class RelatedItems:
    """The related items of one run date, in the table `related_items`.

    Attributes:
        table: Path or URI of the table.
        model_version: The model whose items they are.
        run_date: The partition.
        source: What the items are related by: ``cosine`` or ``co-occurrence``.
        n_items: Items that were compared.
        n_untrained: Items that were left out, as the model was not trained on them.
        n_rows: Rows of the partition.
        n_not_offered: Compared items that are related to none, as rules of `[score]` leave them
            out.
    """

    table: str
    model_version: str
    run_date: date
    source: str
    n_items: int
    n_untrained: int
    n_rows: int
    n_not_offered: int = 0


@dataclass(frozen=True)
class Embedded:
    """The embeddings of one run date, in the tables `item_embeddings` and `user_embeddings`.

    Attributes:
        item_table: Path or URI of the first table.
        user_table: Path or URI of the second.
        model_version: The model that they are of.
        run_date: The partition.
        width: D.
        n_items: Rows of the first: items that the model was trained on.
        n_untrained: Items that were left out, as the model was not trained on them.
        n_users: Rows of the second.
        n_unknown_users: Users who were left out, as the model knows none of their items.
    """

    item_table: str
    user_table: str
    model_version: str
    run_date: date
    width: int
    n_items: int
    n_untrained: int
    n_users: int
    n_unknown_users: int


@dataclass(frozen=True)
class AudienceFound:
    """The best users of some items.

    Attributes:
        output: The file with the rows; None where there is none.
        model_version: The model that scored.
        run_date: Whose histories the users have.
        n_items: Items that were scored.
        n_unknown: Listed items that the model does not know.
        n_untrained: Listed items that it was not trained on.
        n_users: Users who were scored.
        n_unknown_users: Users who were left out, as the model knows none of their items.
        n_rows: Rows found.
        rows: The rows, where there is no `output`: item_id, rank, user_id, score.
        left_out: Further listed items that rules of `[score]` leave out, by the rule; an item may
            be left out by several.
    """

    output: str | None
    model_version: str
    run_date: date
    n_items: int
    n_unknown: int
    n_untrained: int
    n_users: int
    n_unknown_users: int
    n_rows: int
    rows: tuple[dict[str, int | float | str], ...]
    left_out: dict[str, int] = field(default_factory=dict)
