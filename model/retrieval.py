"""Exact top-k over the catalogue as ONNX nodes behind an encoder's output."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.warm_start import ITEM_TABLE


def add_retrieval(model: onnx.ModelProto, n_items: int) -> None:
    """Append retrieval to an encoder graph, in place.

    Adds the inputs ``exclude`` int64 (B, E), ``item_bias`` float32 (V,) and ``k`` int64 (1,), and
    replaces the output by ``item_index`` int64 (B, K) and ``score`` float32 (B, K), best first,
    ties by the smaller index; where fewer than K items are eligible, index 0 and score -inf.
    """
    graph = model.graph
    constants = {
        "retrieval.never": np.float32(-np.inf),
        "retrieval.zero": np.int64(0),
        "retrieval.pad_widths": np.array([0, 1], dtype=np.int64),
        "retrieval.columns": np.array([1], dtype=np.int64),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    node = helper.make_node
    graph.node.extend(
        [
            node("Gemm", ["user_embedding", ITEM_TABLE], ["raw_score"], transB=1),
            node("Add", ["raw_score", "item_bias"], ["biased_score"]),
            # One more column of 0 excludes PAD, also where nothing else is excluded.
            node(
                "Pad",
                ["exclude", "retrieval.pad_widths", "retrieval.zero", "retrieval.columns"],
                ["excluded"],
            ),
            node("Shape", ["excluded"], ["excluded_shape"]),
            node("Expand", ["retrieval.never", "excluded_shape"], ["exclusions"]),
            node(
                "ScatterElements",
                ["biased_score", "excluded", "exclusions"],
                ["eligible_score"],
                axis=1,
            ),
            node("TopK", ["eligible_score", "k"], ["score", "best_index"], axis=1),
            node("Equal", ["score", "retrieval.never"], ["ineligible"]),
            node("Where", ["ineligible", "retrieval.zero", "best_index"], ["item_index"]),
        ]
    )
    graph.input.extend(
        [
            helper.make_tensor_value_info("exclude", TensorProto.INT64, ["B", "E"]),
            helper.make_tensor_value_info("item_bias", TensorProto.FLOAT, [n_items]),
            helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("item_index", TensorProto.INT64, ["B", "K"]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B", "K"]),
        ]
    )
