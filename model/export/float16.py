"""The float16 form of an exported graph, for GPUs: half the bytes of the item table and scores.

Our own, because the general converter (onnxruntime.transformers.float16) puts casts around every
node that stays float32, even between two of them: 82 casts where 8 are enough.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.errors import ConfigError

_FLOAT32_OPS = ("Cast", "DFT", "Range")

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def to_float16(model: onnx.ModelProto) -> None:
    """Make a graph compute in float16, in place; its inputs and outputs stay float32.

    The choice of the delays stays float32, from the LayerNorm's output to the delays' softmax: its
    sums of products over time and channels could leave float16's range.

    Args:
        model: A traced encoder, with or without retrieval.

    Raises:
        ConfigError: a weight is beyond float16's range.
    """
    graph = model.graph
    kinds = _kinds(model)
    choice = _delay_choice(graph)
    casts = _Casts(graph, kinds)
    outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        exact = node.op_type in _FLOAT32_OPS or node.output[0] in choice
        kind = FLOAT if exact else FLOAT16
        floats = [name for name in node.input if kinds.get(name) in (FLOAT, FLOAT16)]
        floats += [name for name in node.output if kinds.get(name) == FLOAT]
        if floats:
            node.input[:] = [casts.of(name, kind, nodes) for name in node.input]
        nodes.append(node)
        if not floats or kind == FLOAT:
            continue
        if node.op_type == "ConstantOfShape":
            _fill_with_float16(node)
        for i, name in enumerate(node.output):
            if kinds.get(name) != FLOAT:
                continue
            if name in outputs:
                node.output[i] = float16_name(name)
                casts.made[name, FLOAT16] = node.output[i]
                nodes.append(helper.make_node("Cast", [node.output[i]], [name], to=FLOAT))
            else:
                kinds[name] = FLOAT16
    for value in graph.value_info:
        value.type.tensor_type.elem_type = kinds[value.name]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def float16_name(name: str) -> str:
    """The name of a value's float16 form."""
    return f"{name}.float16"


def in_float16(name: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round a weight to float16; infinities stay.

    Raises:
        ConfigError: a finite value is beyond float16's range.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if (np.isinf(rounded) & np.isfinite(values)).any():
        raise ConfigError(
            "a weight is beyond float16's range",
            name,
            expected=f"at most {np.finfo(np.float16).max:g}",
            found=f"{np.abs(values[np.isfinite(values)]).max():g}",
            remedy="Export with export.fp16 = false.",
        )
    return rounded


def with_every_rounding(model: onnx.ModelProto) -> None:
    """Make a float16 graph round on a CPU wherever a GPU does, in place.

    ONNX Runtime has few float16 kernels for CPUs: it computes in float32 and skips the rounding
    between two such nodes, but keeps casts that the graph itself holds.
    """
    graph = model.graph
    kinds = _kinds(model)
    nodes: list[onnx.NodeProto] = []
    widened: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if kinds.get(name) == FLOAT16:
                if name not in widened:
                    widened[name] = f"{name}.widened"
                    nodes.append(helper.make_node("Cast", [name], [widened[name]], to=FLOAT))
                node.input[i] = widened[name]
        nodes.append(node)
        for i, name in enumerate(node.output):
            if kinds.get(name) == FLOAT16 and node.op_type != "ConstantOfShape":
                node.output[i] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [node.output[i]], [name], to=FLOAT16))
    del graph.node[:]
    graph.node.extend(nodes)


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
    return kinds


def _delay_choice(graph: onnx.GraphProto) -> set[str]:
    """The nodes, by first output, from a LayerNorm to the delays and their weights."""
    made_by = {name: node for node in graph.node for name in node.output}

    def sources(node: onnx.NodeProto) -> dict[str, str]:
        found: dict[str, str] = {}
        todo = [node]
        while todo:
            one = todo.pop()
            if one.op_type != "LayerNormalization" and one.output[0] not in found:
                found[one.output[0]] = one.op_type
                todo += [made_by[name] for name in one.input if name in made_by]
        return found

    chosen: set[str] = set()
    for node in graph.node:
        if "user_embedding" in node.output:
            break  # retrieval, if it follows, has a TopK of its own
        if node.op_type in ("TopK", "Softmax"):
            found = sources(node)
            if "TopK" in found.values():
                chosen |= found.keys()
    return chosen


class _Casts:
    """Casts of a graph's values to the other precision, one per value.

    Attributes:
        made: The names of values in the other precision, by name and precision.
    """

    def __init__(self, graph: onnx.GraphProto, kinds: dict[str, int]) -> None:
        self._graph = graph
        self._kinds = kinds
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.made: dict[tuple[str, int], str] = {}

    def of(self, name: str, kind: int, nodes: list[onnx.NodeProto]) -> str:
        """The name of the value in a precision; a new cast is appended to `nodes`."""
        have = self._kinds.get(name)
        if have not in (FLOAT, FLOAT16) or have == kind:
            return name
        if (name, kind) not in self.made:
            if name in self._constants:
                made = float16_name(name)
                values = in_float16(name, numpy_helper.to_array(self._constants[name]))
                self._graph.initializer.append(numpy_helper.from_array(values, made))
            else:
                made = float16_name(name) if kind == FLOAT16 else f"{name}.float32"
                nodes.append(helper.make_node("Cast", [name], [made], to=kind))
            self.made[name, kind] = made
        return self.made[name, kind]


def _fill_with_float16(node: onnx.NodeProto) -> None:
    values = [numpy_helper.to_array(each.t) for each in node.attribute if each.name == "value"]
    value = values[0] if values else np.zeros(1, np.float32)
    del node.attribute[:]
    tensor = numpy_helper.from_array(value.astype(np.float16))
    node.attribute.append(helper.make_attribute("value", tensor))
