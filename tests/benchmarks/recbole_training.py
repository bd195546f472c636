"""Seconds a training step of RecBole's own FEARec; run by `training.py` in RecBole's environment.

Usage: recbole_training.py SAMPLES.npz STEPS {as-installed,anomaly-off} CONFIG-JSON
Prints one JSON line.
"""

import contextlib
import io
import json
import sys
import time

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.fearec import FEARec


class Features(dict):
    """As much of RecBole's inter_feat as FEARec touches."""


class SampleSet:
    def __init__(self, samples, n_items):
        self.inter_feat = Features(
            item_id=torch.from_numpy(samples["item_id"]),
            item_id_list=torch.from_numpy(samples["item_seq"]),
            item_length=torch.from_numpy(samples["item_seq_len"]),
        )
        self._n_items = n_items

    def num(self, field):
        return self._n_items


def main():
    torch.set_num_threads(1)
    samples = dict(np.load(sys.argv[1]))
    steps, mode, config = int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    # Importing RecBole switches anomaly detection on (its sine.py); make that explicit.
    torch.autograd.set_detect_anomaly(mode == "as-installed")
    dataset = SampleSet(samples, config["n_items"])
    config.update(
        USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", LIST_SUFFIX="_list",
        ITEM_LIST_LENGTH_FIELD="item_length", NEG_PREFIX="neg_", device="cpu", use_filter=None,
    )  # fmt: skip
    # Its O(N^2) index of same-target samples, built faster: start-up is not what is timed here.
    order = np.argsort(samples["item_id"], kind="stable")
    items, begins = np.unique(samples["item_id"][order], return_index=True)
    index = dict(zip(items.tolist(), np.split(order, begins[1:]), strict=True))
    FEARec.get_same_item_index = lambda self, dataset: index
    with contextlib.redirect_stdout(io.StringIO()):
        model = FEARec(config, dataset).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch_size = config["train_batch_size"]
    picks = np.random.default_rng(0).permutation(len(samples["item_id"]))
    seconds = []
    for step in range(steps + 1):
        rows = torch.from_numpy(picks[step * batch_size : (step + 1) * batch_size])
        batch = Interaction({name: value[rows] for name, value in dataset.inter_feat.items()})
        started = time.process_time()
        optimiser.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimiser.step()
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": seconds[1:]}))  # the first warms up


main()
