"""The items that may be recommended at all, and the most popular of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.config.sections import ScoreSettings
from pipeline.logs.id_lists import read_ids
from pipeline.schema import ITEM_ID, PAD


@dataclass(frozen=True)
class Eligibility:
    """The items that may be recommended to any user.

    Attributes:
        item_bias: (V,) float32, 0 where an item is eligible, -inf where it is not.
        popular: (K or fewer,) int64, eligible item indices, most popular first.
        popular_score: float32, each popular item's share of all training interactions.
        n_unknown: The number of ids in the allow and deny files that the bundle does not know.
    """

    item_bias: NDArray[np.float32]
    popular: NDArray[np.int64]
    popular_score: NDArray[np.float32]
    n_unknown: int


def eligible_items(items: pa.Table, settings: ScoreSettings) -> Eligibility:
    """The items that were trained on, are in the allow file and are not in the deny file.

    Args:
        items: The bundle's items, V-1 rows in index order from 1.
        settings: `allow`, `deny` and `top_k` are used.

    Raises:
        ConfigError: `top_k` exceeds the number of items, or no item is eligible.
        InputError: a file of ids cannot be read.
        SchemaError: its ids are of another kind than the bundle's.
    """
    if settings.top_k > len(items):
        raise ConfigError(
            "more recommendations requested than there are items",
            "score.top_k",
            expected=f"at most {len(items)}",
            found=str(settings.top_k),
        )
    ids = items[ITEM_ID]
    popularity = items["popularity"].to_numpy()
    eligible = popularity > 0
    n_unknown = 0
    for path, allowed in ((settings.allow, True), (settings.deny, False)):
        if path is None:
            continue
        listed = read_ids(path, ITEM_ID, ids.type, "the bundle")
        n_unknown += int(pc.sum(pc.is_null(pc.index_in(listed, value_set=ids))).as_py() or 0)
        eligible &= pc.is_in(ids, value_set=listed).to_numpy() == allowed
    if not eligible.any():
        raise ConfigError(
            "no item is left to recommend",
            str(settings.allow or settings.deny or "items.parquet"),
            expected="at least one item that the model was trained on",
            remedy="Check that the allow and deny files hold ids of this bundle's items.",
        )
    item_bias = np.full(len(ids) + 1, -np.inf, np.float32)
    item_bias[PAD + 1 :][eligible] = 0
    best = np.argsort(-popularity, kind="stable")  # ties: the smaller index first
    best = best[eligible[best]][: settings.top_k]
    share = (popularity / popularity.sum()).astype(np.float32)
    return Eligibility(item_bias, best + 1, share[best], n_unknown)
