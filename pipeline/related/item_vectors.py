"""The items of a bundle: their vectors, and which of them may be compared."""

import numpy as np
import pyarrow as pa

from pipeline.bundles.bundle import Bundle
from pipeline.related.running_top import Floats, Integers
from pipeline.scoring.item_table import check_item_table


def item_vectors(bundle: Bundle) -> Floats:
    """The item table (V, D), mapped into memory.

    Raises:
        BundleError: it has another size than the model says, or holds a value that is not finite.
    """
    check_item_table(bundle)
    return np.memmap(bundle.item_table, np.float32, "r").reshape(bundle.n_items, -1)


def trained_items(items: pa.Table) -> Integers:
    """The indices of the items that a model was trained on, ascending: others' vectors say nothing.

    Args:
        items: The bundle's, V-1 rows in index order from 1.
    """
    return np.flatnonzero(items["popularity"].to_numpy() > 0) + 1
