"""Users/s of RecBole's own FEARec; run by `encoder.py` and `end_to_end.py` in its environment.

Usage: recbole_inference.py ARRAYS.npz CONFIG-JSON TOP_K BATCH...
ARRAYS holds item_seq, item_seq_len, item_id and the weights under w/. Prints one JSON line: for
each batch size the users/s of `forward` alone and of `full_sort_predict` and top-k.
"""

import json
import sys
import time

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole_model import build

torch.set_num_threads(1)
torch.autograd.set_detect_anomaly(False)
arrays = dict(np.load(sys.argv[1]))
config, top_k = json.loads(sys.argv[2]), int(sys.argv[3])
model, _ = build(config, arrays)
weights = {name[2:]: torch.from_numpy(x) for name, x in arrays.items() if name.startswith("w/")}
missing, unexpected = model.load_state_dict(weights, strict=False)
assert not unexpected, unexpected
assert all(name.startswith("item_encoder.layer_ramp.") for name in missing), missing
model.eval()
item_seq, item_seq_len = (torch.from_numpy(arrays[name]) for name in ("item_seq", "item_seq_len"))
speeds = {}
with torch.no_grad():
    for batch in map(int, sys.argv[4:]):
        parts = list(zip(item_seq.split(batch), item_seq_len.split(batch), strict=True))
        model(*parts[0])
        started = time.process_time()
        for part in parts:
            model(*part)
        forward = time.process_time() - started
        started = time.process_time()
        for seq, length in parts:
            interaction = Interaction({"item_id_list": seq, "item_length": length})
            torch.topk(model.full_sort_predict(interaction), top_k)
        whole = time.process_time() - started
        speeds[batch] = [len(item_seq) / forward, len(item_seq) / whole]
print(json.dumps(speeds))
