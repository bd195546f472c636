"""The check of float16: the same users scored by a bundle's two graphs."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from model.export.files import FLOAT16_RECOMMENDER, RECOMMENDER
from model.export.float16 import with_every_rounding
from model.training.histories import evenly_spaced
from pipeline.bundles.sessions import open_session
from pipeline.config.event_types_section import Names
from pipeline.config.export_section import ExportSettings
from pipeline.data.prepared import read_histories
from pipeline.errors import ExportParityError
from pipeline.results import Float16Check, Prepared
from pipeline.schema import PAD

TOP_K = 10

_ROUNDED = "rounded.onnx"
_BATCH, _SCORES = 256, 2**26  # users, and elements of a batch's (B, V) scores, at most

Array = npt.NDArray[Any]


def check_float16(
    prepared: Prepared,
    limits: ExportSettings,
    folder: Path,
    inputs: Names,
    *,
    length: int,
    mask_seen: bool,
) -> Float16Check:
    """Compare a bundle's float16 recommender with the float32 one, rounding where a GPU rounds.

    Args:
        prepared: The users whose recommendations are compared.
        limits: How many users, and how much must agree.
        folder: Holds both graphs.
        inputs: Types of the events that the model sees; empty for all events.
        length: L.
        mask_seen: Whether to leave out what a user has already seen.

    Raises:
        ExportParityError: they agree less than the settings ask for, or a score is not a number.
    """
    histories = read_histories(prepared.folder, inputs)
    begins, ends = histories.offsets[:-1], histories.offsets[1:]
    last = ends[ends - begins >= 2] - 1
    last = last[histories.with_inputs(last)]
    last = evenly_spaced(last, limits.parity_sequences)
    count = len(last)
    item_seq, item_seq_len = histories.windows(last, length)
    users = item_seq.numpy(), item_seq_len.numpy()
    exact = _recommend(open_session(folder / RECOMMENDER, "cpu"), *users, mask_seen)
    half = _recommend(_rounding_session(folder), *users, mask_seen)
    target = histories.items[last].numpy()[:, None]
    gain = 1 / np.log2(np.arange(TOP_K) + 2)
    lost = ((exact == target).astype(int) - (half == target)) @ gain
    kept = (exact[:, :, None] == half[:, None, :]).any(2) & (exact != PAD)
    found = Float16Check(
        ndcg=float(lost.mean()) if count else 0.0,
        agreement=float(kept.sum() / max(1, (exact != PAD).sum())) if count else 1.0,
        sequences=count,
    )
    if found.agreement < limits.min_fp16_agreement:
        raise ExportParityError(
            "the float16 recommender differs from the float32 one",
            f"top {TOP_K} of {count} users",
            expected=f"export.min_fp16_agreement = {limits.min_fp16_agreement:g}",
            found=f"{found.agreement:.4f}",
            remedy="Export with export.fp16 = false.",
        )
    return found


def _rounding_session(folder: Path) -> onnxruntime.InferenceSession:
    graph = onnx.load(folder / FLOAT16_RECOMMENDER, load_external_data=False)
    with_every_rounding(graph)
    path = folder / _ROUNDED  # beside the item table, which it refers to
    try:
        onnx.save(graph, path)
        return open_session(path, "cpu")
    finally:
        path.unlink(missing_ok=True)


def _recommend(
    session: onnxruntime.InferenceSession, item_seq: Array, item_seq_len: Array, mask_seen: bool
) -> npt.NDArray[np.int64]:
    """The top items (N, TOP_K)."""
    n_items = next(each.shape[0] for each in session.get_inputs() if each.name == "item_bias")
    size = max(1, min(_BATCH, _SCORES // n_items))
    feed = {
        "item_bias": np.where(np.arange(n_items) == PAD, -np.inf, 0).astype(np.float32),
        "k": np.array([min(TOP_K, n_items)]),
    }
    best = np.full((len(item_seq), TOP_K), PAD)
    for begin in range(0, len(item_seq), size):
        batch = slice(begin, begin + size)
        seen = item_seq[batch] if mask_seen else item_seq[batch, :0]
        sequences = {"item_seq": item_seq[batch], "item_seq_len": item_seq_len[batch]}
        item_index, score = session.run(
            ["item_index", "score"], {**feed, **sequences, "exclude": seen}
        )
        if np.isnan(score).any():
            raise ExportParityError(
                "a recommender computes scores that are not numbers",
                remedy="Export with export.fp16 = false.",
            )
        best[batch, : item_index.shape[1]] = item_index
    return best
