"""RecBole's own FEARec without its data pipeline; imported in RecBole's environment."""

import contextlib
import io

import numpy as np
import torch
from recbole.model.sequential_recommender.fearec import FEARec


class SampleSet:
    """As much of a RecBole data set as FEARec touches."""

    def __init__(self, samples, n_items):
        self.inter_feat = {
            "item_id": torch.from_numpy(samples["item_id"]),
            "item_id_list": torch.from_numpy(samples["item_seq"]),
            "item_length": torch.from_numpy(samples["item_seq_len"]),
        }
        self._n_items = n_items

    def num(self, field):
        return self._n_items


def build(config, samples):
    """A model of `config` over samples of arrays item_seq, item_seq_len and item_id."""
    config = {
        **config,
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "NEG_PREFIX": "neg_",
        "device": "cpu",
        "use_filter": None,
    }
    # Its O(N^2) index of same-target samples, built faster: start-up is not what is timed.
    order = np.argsort(samples["item_id"], kind="stable")
    items, begins = np.unique(samples["item_id"][order], return_index=True)
    index = dict(zip(items.tolist(), np.split(order, begins[1:]), strict=True))
    FEARec.get_same_item_index = lambda self, dataset: index
    dataset = SampleSet(samples, config["n_items"])
    with contextlib.redirect_stdout(io.StringIO()):
        return FEARec(config, dataset), dataset
