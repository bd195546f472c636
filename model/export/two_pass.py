"""Exact top-k in two passes, as ONNX nodes: 8-bit bounds of all items, float32 scores of few.

The first pass computes an upper bound of the scores of every block of items. The exact scores in
a user's most promising blocks give a lower bound of the k-th best score. Only other blocks whose
upper bound reaches it can hold one of the k best items; the second pass scores these too. The
score matrix never exists as a whole: one tile of it at a time stays in the processor's cache.

For CPUs only: no other execution provider of ONNX Runtime multiplies uint8 by int8 matrices.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.export.graph_builder import GraphBuilder
from model.export.quantize import (
    BLOCK_ITEMS,
    CODES,
    TILE_BLOCKS,
    TILE_ITEMS,
    USER_LEVELS,
    QuantizedItems,
)
from model.training.weights import ITEM_TABLE

FLOAT, INT8, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
)

# Values of the main graph that its subgraphs read.
_BIAS = "retrieval.bias"  # (blocks, BLOCK_ITEMS), -inf where padded
_LEVELS = "retrieval.levels"  # (D, B) int8, the quantized users
_WEIGHTS = "retrieval.weights"  # (B, 3), factors of a block's bias and errors
_BOUNDS = "retrieval.bounds"  # (tiles * B, TILE_BLOCKS)
_USERS = "retrieval.users"  # B
_TRIED = "retrieval.tried"  # (1,), the number of blocks that give the lower bound
_K_ROWS = "retrieval.k_rows"  # pads a vector by k entries

_LEAST_SCALE = 1e-20  # the scale of an all-zero user
# Bound of the float32 rounding when a bias is added, relative to the sum.
_ROUNDING = 2.0**-20

_value = helper.make_tensor_value_info


def add_two_pass(graph: onnx.GraphProto, n_items: int, items: QuantizedItems) -> None:
    """Append the nodes from ``user_embedding`` to ``item_index`` and ``score``.

    Args:
        graph: Has, or will get, the inputs ``exclude``, ``item_bias`` and ``k``.
        n_items: V.
        items: The quantized item table.
    """
    add = GraphBuilder(graph, "retrieval")
    tiles, _, dimensions = items.code.shape
    for name, values in (("codes", items.code), ("scales", items.scale), ("errors", items.error)):
        graph.initializer.append(numpy_helper.from_array(values, f"retrieval.{name}"))
    # An input too, so that a batch can have codes without the items that its bias leaves out.
    graph.input.append(_value(CODES, TensorProto.UINT8, items.code.shape))
    zero, first, second, third = (add.constant(value) for value in (0, [0], [1], [2]))
    never = add.constant(-np.inf, np.float32)

    # A user u is quantized to v = scale * level; bounds are in units of the user's scale.
    largest = add("ReduceMax", add("Abs", "user_embedding"), second)
    scale = add("Div", largest, add.constant(USER_LEVELS, np.float32))
    scale = add("Max", scale, add.constant(_LEAST_SCALE, np.float32))
    level = add("Round", add("Div", "user_embedding", scale))
    add("Transpose", add("Cast", level, to=INT8), perm=[1, 0], out=_LEVELS)
    per_scale = add("Reciprocal", scale)
    missed = add("ReduceL2", add("Sub", "user_embedding", add("Mul", level, scale)), second)
    norm = add("ReduceL2", "user_embedding", second)
    missed, norm = add("Mul", missed, per_scale), add("Mul", norm, per_scale)
    add("Concat", per_scale, missed, norm, axis=1, out=_WEIGHTS)

    # First pass: `margins` are each block's greatest bias and its errors.
    padding = add.constant([0, tiles * TILE_ITEMS - n_items])
    bias = add("Pad", "item_bias", padding, never)
    add("Reshape", bias, add.constant([-1, BLOCK_ITEMS]), out=_BIAS)
    blocks = add("Reshape", bias, add.constant([tiles, TILE_BLOCKS, BLOCK_ITEMS]))
    margins = add("Concat", add("ReduceMax", blocks, third), "retrieval.errors", axis=2)
    bounds, tile_bounds = add.several(
        2,
        "Scan",
        CODES,
        "retrieval.scales",
        margins,
        num_scan_inputs=3,
        body=_tile_pass(graph, items),
    )
    add("Reshape", bounds, add.constant([-1, TILE_BLOCKS]), out=_BOUNDS)
    tile_bounds = add("Transpose", tile_bounds, perm=[1, 0])

    # Second pass. An extra excluded item is PAD, even if nothing else is excluded.
    excluded = add("Pad", "exclude", add.constant([0, 0, 0, 1]), zero)
    # This many blocks hold at least k items that are not excluded.
    add("Add", "k", add("Shape", excluded, start=1), out=_TRIED)
    add("Concat", first, "k", axis=0, out=_K_ROWS)
    add("Squeeze", add("Shape", "user_embedding", end=1), out=_USERS)
    users = add("Range", zero, _USERS, add.constant(1))
    index, score = add.several(
        2,
        "Scan",
        users,
        "user_embedding",
        add("Squeeze", scale, second),
        tile_bounds,
        excluded,
        num_scan_inputs=5,
        body=_user_pass(graph, n_items, tiles, dimensions),
    )
    add("Identity", index, out="item_index")
    add("Identity", score, out="score")
    graph.node.extend(add.nodes)


def _tile_pass(graph: onnx.GraphProto, items: QuantizedItems) -> onnx.GraphProto:
    """The subgraph from a tile's codes, scales and margins to its blocks' bounds and the greatest.

    Returns:
        A graph of outputs (B, TILE_BLOCKS) and (B,).
    """
    add = GraphBuilder(graph, "retrieval.tile")
    product = add("MatMulInteger", "tile", _LEVELS, add.constant(items.zero, np.uint8))
    shape = add.constant([TILE_BLOCKS, BLOCK_ITEMS, -1])
    best = add("ReduceMax", add("Reshape", product, shape), add.constant([1]), keepdims=0)
    scaled = add("Mul", add("Cast", best, to=FLOAT), "tile_scales")
    bounds = add("Gemm", "margins", _WEIGHTS, scaled, transB=1)
    add("Transpose", bounds, perm=[1, 0], out="tile_block_bounds")
    add("ReduceMax", bounds, add.constant([0]), keepdims=0, out="tile_bound")
    return helper.make_graph(
        add.nodes,
        "tile_pass",
        [
            _value("tile", TensorProto.UINT8, items.code.shape[1:]),
            _value("tile_scales", FLOAT, [TILE_BLOCKS, 1]),
            _value("margins", FLOAT, [TILE_BLOCKS, 3]),
        ],
        [
            _value("tile_block_bounds", FLOAT, ["B", TILE_BLOCKS]),
            _value("tile_bound", FLOAT, ["B"]),
        ],
    )


def _user_pass(
    graph: onnx.GraphProto, n_items: int, tiles: int, dimensions: int
) -> onnx.GraphProto:
    """The subgraph from one user's embedding, scale, tile bounds and exclusions to the best items.

    Returns:
        A graph of outputs item index (K,) and score (K,).
    """
    add = GraphBuilder(graph, "retrieval.user")
    zero, one, block_items, tile_blocks = map(add.constant, (0, 1, BLOCK_ITEMS, TILE_BLOCKS))
    first, second, flat = map(add.constant, ([0], [1], [-1]))
    never = add.constant(-np.inf, np.float32)
    lowest = add.constant(np.finfo(np.float32).min, np.float32)
    last_item = add.constant(n_items - 1)
    within_block = add.constant(np.arange(BLOCK_ITEMS))
    column = add.constant([dimensions, 1])
    one_row = add.constant([0, 0, 1, 0])
    halves = add.constant([1, 1])
    nowhere = add.constant(np.full(tiles * TILE_BLOCKS, -1), np.int32)

    def reaching(values: str, bound: str) -> str:
        # "Not less", so that NaN passes and is found by the check of the scores.
        return add("Not", add("Less", values, bound))

    def bounds_of(tile: str) -> str:
        row = add("Add", add("Mul", tile, _USERS), "user")
        return add("Gather", _BOUNDS, row)

    def tiles_reaching(bound: str) -> str:
        return add("Reshape", add("NonZero", reaching("user_tile_bounds", bound)), flat)

    def blocks_of(tile: str, chosen: str) -> str:
        """The chosen blocks, ascending, so that items stay in index order."""
        row, block = add.several(2, "Split", add("NonZero", chosen), halves, axis=0)
        row, block = add("Reshape", row, flat), add("Reshape", block, flat)
        return add("Add", add("Mul", add("Gather", tile, row), tile_blocks), block)

    def scores_of(block: str) -> tuple[str, str]:
        """The items of some blocks and their scores, both flat."""
        item = add("Add", add("Mul", add("Unsqueeze", block, second), block_items), within_block)
        rows = add("Gather", ITEM_TABLE, add("Min", item, last_item))
        score = add("Squeeze", add("MatMul", rows, add("Reshape", "user_row", column)), flat)
        score = add("Add", score, add("Gather", _BIAS, block))
        # Excluded items of other blocks are written to an extra row, which is dropped.
        n = add("Squeeze", add("Shape", block))
        place = add("Cast", add("Range", zero, n, one), to=INT32)
        place = add("ScatterElements", nowhere, block, place)
        place = add("Gather", place, add("Div", "user_excluded", block_items))
        row = add("Unsqueeze", add("Cast", place, to=INT64), second)
        entry = add("Unsqueeze", add("Mod", "user_excluded", block_items), second)
        score = add(
            "ScatterND",
            add("Pad", score, one_row, never),
            add("Concat", row, entry, axis=1),
            add("Expand", never, add("Shape", "user_excluded")),
        )
        score = add("Slice", score, first, flat)
        return add("Reshape", item, flat), add("Reshape", score, flat)

    # The lower bound: the k-th best score in the most promising blocks.
    best_tiles = add("Min", _TRIED, add.constant([tiles]))
    least = add.several(2, "TopK", "user_tile_bounds", best_tiles, sorted=0)[0]
    tile = tiles_reaching(add("Max", add("ReduceMin", least, keepdims=0), lowest))
    bounds = bounds_of(tile)
    every = add("Reshape", bounds, flat)
    least = add.several(2, "TopK", every, add("Min", _TRIED, add("Shape", every)), sorted=0)[0]
    tried = add("Max", add("ReduceMin", least, keepdims=0), lowest)
    item, score = scores_of(blocks_of(tile, reaching(bounds, tried)))
    score, place = add.several(2, "TopK", add("Pad", score, _K_ROWS, never), "k")
    item = add("Gather", add("Pad", item, _K_ROWS), place)
    kth = add("ReduceMin", score, keepdims=0)

    # The other blocks that can hold an item of at least this score.
    slack = add("Mul", add("Abs", kth), add.constant(_ROUNDING, np.float32))
    reach = add("Max", add("Div", add("Sub", kth, slack), "user_scale"), lowest)
    tile = tiles_reaching(reach)
    bounds = bounds_of(tile)
    new = add("And", reaching(bounds, reach), add("Less", bounds, tried))
    new_item, new_score = scores_of(blocks_of(tile, new))
    good = add("Reshape", add("NonZero", reaching(new_score, add("Max", kth, lowest))), flat)

    # Merge both in index order, so that ties go to the smaller index.
    item = add("Concat", item, add("Gather", new_item, good), axis=0)
    score = add("Concat", score, add("Gather", new_score, good), axis=0)
    item, order = add.several(2, "TopK", item, add("Shape", item), largest=0)
    score, place = add.several(2, "TopK", add("Gather", score, order), "k")
    add("Where", add("Equal", score, never), zero, add("Gather", item, place), out="user_item")
    add("Identity", score, out="user_score")
    return helper.make_graph(
        add.nodes,
        "user_pass",
        [
            _value("user", INT64, []),
            _value("user_row", FLOAT, [dimensions]),
            _value("user_scale", FLOAT, []),
            _value("user_tile_bounds", FLOAT, [tiles]),
            _value("user_excluded", INT64, ["excluded"]),
        ],
        [_value("user_item", INT64, ["K"]), _value("user_score", FLOAT, ["K"])],
    )
