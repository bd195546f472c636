"""Exact top-k retrieval over the catalogue, as ONNX nodes after an encoder's output."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.export.graph_builder import GraphBuilder
from model.export.quantize import QuantizedItems
from model.export.two_pass import add_two_pass
from model.training.weights import ITEM_TABLE

# Catalogue sizes from which a form is faster on a CPU, as tests/benchmarks/retrieval.py measures.
BLOCKS_FROM = 2**14
TWO_PASS_FROM = 2**16

_BLOCK_ITEMS = 64


def add_retrieval(
    model: onnx.ModelProto, n_items: int, items: QuantizedItems | None = None
) -> None:
    """Append retrieval to an encoder graph, in place.

    Adds the inputs ``exclude`` int64 (B, E), ``item_bias`` float32 (V,) and ``k`` int64 (1,), and
    before the embedding the outputs ``item_index`` int64 (B, K) and ``score`` float32 (B, K), best
    first, ties by the smaller index; if fewer than K items are eligible, the rest is index 0, score
    -inf.

    Args:
        model: The encoder; its output is ``user_embedding``.
        n_items: V.
        items: The quantized item table for the two-pass form, which is faster and for CPUs only;
            without it, the form for every execution provider.
    """
    graph = model.graph
    if items is not None:
        add_two_pass(graph, n_items, items)
    else:
        _add_matrix(graph, n_items, _BLOCK_ITEMS if n_items >= BLOCKS_FROM else 0)
    graph.input.extend(
        [
            helper.make_tensor_value_info("exclude", TensorProto.INT64, ["B", "E"]),
            helper.make_tensor_value_info("item_bias", TensorProto.FLOAT, [n_items]),
            helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        ]
    )
    # The embedding's known shape lets ONNX Runtime overwrite the scores, not copy them.
    (user_embedding,) = graph.output
    outputs = [
        helper.make_tensor_value_info("item_index", TensorProto.INT64, ["B", "K"]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B", "K"]),
        user_embedding,
    ]
    del graph.output[:]
    graph.output.extend(outputs)


def _add_matrix(graph: onnx.GraphProto, n_items: int, block_items: int) -> None:
    """Score all items, (B, V), and take the best; by blocks, unless `block_items` is 0.

    From `TWO_PASS_FROM` items on CPUs have the two-pass form, and this one is for GPUs.
    """
    add = GraphBuilder(graph, "retrieval")
    zero, one, two = add.constant(0), add.constant([1]), add.constant([2])
    never = add.constant(-np.inf, np.float32)
    table, bias = ITEM_TABLE, "item_bias"
    padding = -n_items % block_items if block_items else 0
    if padding:  # to whole blocks; constant-folded, so a session pads the table once
        table = add("Pad", table, add.constant([0, 0, padding, 0]))
        bias = add("Pad", bias, add.constant([0, padding]), never)
    score = add("Gemm", "user_embedding", table, bias, transB=1)
    # An extra column of 0 excludes PAD, even if nothing else is excluded. Concat, as CUDA has no
    # Pad of integers.
    users = add("Shape", "exclude", end=1)
    column = add(
        "ConstantOfShape", add("Concat", users, one, axis=0),
        value=numpy_helper.from_array(np.zeros(1, np.int64)),
    )  # fmt: skip
    excluded = add("Concat", "exclude", column, axis=1)
    shape = add("Shape", excluded)
    exclusions = add("Expand", never, shape)
    if n_items < TWO_PASS_FROM:
        score = add("ScatterElements", score, excluded, exclusions, axis=1)
    else:  # for a GPU, where ScatterElements copies all scores first
        row = add("Unsqueeze", add("Range", zero, add("Squeeze", users), add.constant(1)), one)
        pair = [add("Unsqueeze", each, two) for each in (add("Expand", row, shape), excluded)]
        score = add("ScatterND", score, add("Concat", *pair, axis=2), exclusions)
    if block_items:
        item, score = _best_blocks(add, score, n_items + padding, block_items)
        score, place = add.several(2, "TopK", score, "k")
        item = add("GatherElements", item, place, axis=1)
    else:
        score, item = add.several(2, "TopK", score, "k")
    add("Identity", score, out="score")
    add("Where", add("Equal", score, never), zero, item, out="item_index")
    graph.node.extend(add.nodes)


def _best_blocks(add: GraphBuilder, score: str, n_items: int, block_items: int) -> tuple[str, str]:
    """The items of the k best blocks, in index order, and their scores: (B, k * block_items).

    The k best items lie in the k blocks with the greatest maxima; ties of maxima go to the
    smaller index, like ties of items.
    """
    n_blocks, third, rows = n_items // block_items, add.constant([2]), add.constant([0, -1])
    chosen = add("Min", "k", add.constant([n_blocks]))
    blocks = add("Reshape", score, add.constant([0, n_blocks, block_items]))
    if n_items < TWO_PASS_FROM:
        greatest = add("ReduceMax", blocks, third, keepdims=0)
    else:  # for a GPU, where a pooling takes a third of the time
        pooled = add(
            "MaxPool", add("Unsqueeze", score, add.constant([1])),
            kernel_shape=[block_items], strides=[block_items],
        )  # fmt: skip
        greatest = add("Reshape", pooled, rows)
    block = add.several(2, "TopK", greatest, chosen)[1]
    block = add.several(2, "TopK", block, chosen, largest=0)[0]  # in index order
    block = add("Unsqueeze", block, third)
    score = add("Reshape", add("GatherND", blocks, block, batch_dims=1), rows)
    within = add.constant(np.arange(block_items))
    item = add("Add", add("Mul", block, add.constant(block_items)), within)
    return add("Reshape", item, rows), score
