"""Seconds a training step of RecBole's own FEARec; run by `training.py` in RecBole's environment.

Usage: recbole_training.py SAMPLES.npz STEPS {as-installed,anomaly-off} CONFIG-JSON
Prints one JSON line.
"""

import json
import sys
import time

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole_model import build

torch.set_num_threads(1)
samples = dict(np.load(sys.argv[1]))
steps, mode, config = int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
# Importing RecBole switches anomaly detection on (its sine.py); make that explicit.
torch.autograd.set_detect_anomaly(mode == "as-installed")
model, dataset = build(config, samples)
model.train()
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
