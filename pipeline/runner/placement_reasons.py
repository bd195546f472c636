"""Where an item stands for a user, as a reason of `fearec recommend --explain`."""

from pipeline.config.score_section import ScoreSettings
from pipeline.results import Reason
from pipeline.scoring.placement import Placement


def placed_reason(found: Placement, score: ScoreSettings) -> Reason:
    """Why an item is at its place, or has none.

    Args:
        found: Where it stands.
        score: The settings for the user, with the promotions of the user's segment.
    """
    details = {
        "rank": found.rank,
        "n_ranked": found.n_ranked,
        "score": found.score,
        "place": found.place,
        "promotion": found.promotion,
        "n_by_rank": found.n_by_rank,
        "last_score": found.last_score,
    }
    if found.place is None:
        text = f"outranked: {_ranked(found)}"
        if found.last_score is not None:
            text += f"; the last of the {found.n_by_rank} items listed by rank has"
            text += f" {found.last_score:.4f}"
        return Reason("outranked", text, details)
    by = "popularity" if found.popular else "the model"
    if found.promotion is not None:
        where = score.promotion[found.promotion - 1].where
        by = f"promotion {found.promotion} ({where})"
    return Reason("listed", f"at place {found.place} by {by}: {_ranked(found)}", details)


def new_reason(found: Placement) -> Reason:
    """Why a new item is at its place, or has none.

    Args:
        found: Where it stands.
    """
    details = {"place": found.place}
    if found.place is None:
        text = "outranked: it is a new item, and others have the places of score.new_items"
        return Reason("outranked", text, details)
    return Reason("listed", f"at place {found.place} as a new item (score.new_items)", details)


def capped_reason(found: Placement, column: str, value: object, most: int) -> Reason:
    """Why a cap keeps an item out.

    Args:
        found: Where it stands.
        column: The column of the cap.
        value: The item's.
        most: The cap.
    """
    text = f"capped: the list has {most} items whose {column} is {value} before it"
    text += " (score.max_per)" if found.rank is None else f" (score.max_per); {_ranked(found)}"
    details = {"column": column, "value": value, "most": most}
    details |= {"rank": found.rank, "n_ranked": found.n_ranked, "score": found.score}
    return Reason("capped", text, details)


def _ranked(found: Placement) -> str:
    by = "by popularity" if found.popular else "by the model"
    rank = f"rank {found.rank:,} of {found.n_ranked:,} {by} among the items that the user may get"
    return f"{rank}, with score {found.score:.4f}"
