"""The check of a bundle's item table before scoring."""

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.errors import BundleError

_CHUNK = 2**24  # floats


def check_item_table(bundle: Bundle) -> None:
    """Check the item table's size, and that its values are finite: a NaN sorts before any score.

    Raises:
        BundleError: it has another size, or holds a value that is not finite.
    """
    bundle.check_table_size()
    table = np.memmap(bundle.item_table, np.float32, "r")
    for begin in range(0, len(table), _CHUNK):
        bad = np.flatnonzero(~np.isfinite(table[begin : begin + _CHUNK]))
        if len(bad):
            row = int(begin + bad[0]) // (len(table) // bundle.n_items)
            raise BundleError(
                "the item table holds a value that is not finite",
                f"{bundle.item_table} row {row}",
                remedy="The training diverged: train and export the model again.",
            )
