"""The indices that a bundle has for the items of a run."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.bundles.bundle import Bundle
from pipeline.data.prepared import read_vocabulary
from pipeline.logs.id_lists import check_same_kind
from pipeline.results import Prepared
from pipeline.schema import ITEM_ID, ITEMS_FILE


def in_bundle_indices(items: Tensor, prepared: Prepared, bundle: Bundle) -> Tensor:
    """The same items in the indices of a bundle, whose vocabulary may have another order.

    Args:
        items: int32 (N,), in the run's indices.
        prepared: The run's vocabulary.
        bundle: With a vocabulary of V, PAD included.

    Returns:
        int32 (N,); V and above are items that the bundle does not know, each with its own.

    Raises:
        SchemaError: the bundle's ids are numbers and the run's are not, or the reverse.
    """
    ids = bundle.items()[ITEM_ID].combine_chunks()
    prepared_ids = read_vocabulary(prepared.folder)
    check_same_kind(
        prepared_ids.type, str(prepared.folder / ITEMS_FILE), ids.type, str(bundle.path)
    )
    kind = pa.int64() if pa.types.is_integer(ids.type) else pa.string()
    index = pc.index_in(prepared_ids.cast(kind), value_set=ids.cast(kind))
    known = index.is_valid().to_numpy(zero_copy_only=False)
    index_of = np.zeros(len(prepared_ids) + 1, np.int32)
    index_of[1:][known] = index.drop_null().to_numpy() + 1
    index_of[1:][~known] = bundle.n_items + np.arange((~known).sum())
    return torch.from_numpy(index_of)[items.long()]
