"""Exact top-k in two passes, as ONNX nodes: 8-bit bounds of all items, float32 scores of few.

The first pass gives every block of items an upper bound of its best score. A user's k best items
so far give a lower bound of the k-th best; only blocks whose bound reaches it are scored. No
score matrix is ever held: one tile of it at a time stays in the processor's cache.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from model.codes import BLOCK_ITEMS, TILE_BLOCKS, TILE_ITEMS, USER_LEVELS, Codes
from model.nodes import Nodes
from model.warm_start import ITEM_TABLE

FLOAT, INT8, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
)
_VALUE = helper.make_tensor_value_info

_LOWEST = np.finfo(np.float32).min
_LEAST_SCALE = 1e-20  # of an all-zero user


def add_two_pass(graph: onnx.GraphProto, n_items: int, codes: Codes) -> None:
    """Append the nodes from ``user_embedding`` to ``item_index`` and ``score``."""
    main = Nodes(graph, "retrieval")
    tiles, _, dimensions = codes.code.shape
    bias = main(
        "Pad",
        "item_bias",
        main.constant([0, tiles * TILE_ITEMS - n_items]),
        main.constant(-np.inf, np.float32),
        to="retrieval.bias",
    )

    # A user u is coded as v = scale * level. Bounds are in units of the user's scale.
    second, first = main.constant([1]), main.constant([0])
    scale = main(
        "Max",
        main(
            "Div",
            main("ReduceMax", main("Abs", "user_embedding"), second),
            main.constant(USER_LEVELS, np.float32),
        ),
        main.constant(_LEAST_SCALE, np.float32),
    )
    level = main("Round", main("Div", "user_embedding", scale))
    off = main("Sub", "user_embedding", main("Mul", level, scale))
    per_scale = main("Reciprocal", scale)
    weights = main(
        "Concat",
        per_scale,
        main("Mul", main("ReduceL2", off, second), per_scale),
        main("Mul", main("ReduceL2", "user_embedding", second), per_scale),
        axis=1,
    )
    main("Transpose", weights, perm=[1, 0], to="retrieval.weights")
    main("Transpose", main("Cast", level, to_type=INT8), perm=[1, 0], to="retrieval.levels")
