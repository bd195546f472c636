"""A builder of ONNX nodes that makes up names and constants on the way."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper


class GraphBuilder:
    """The nodes of one graph or subgraph, in the order of their calls.

    Constants become initialisers of the main graph, which subgraphs see too.

    Args:
        main: The graph that takes the constants.
        prefix: Prefix of the name of every value made here; each builder needs its own.
    """

    def __init__(self, main: onnx.GraphProto, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._main = main
        self._prefix = prefix
        self._made = 0

    def __call__(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name, `out` if given."""
        output = out or self._name()
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def several(self, n: int, op: str, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with n outputs; returns their names."""
        outputs = [self._name() for _ in range(n)]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: ArrayLike, dtype: Any = np.int64) -> str:
        """Add an initialiser; returns its name."""
        name = self._name()
        self._main.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def _name(self) -> str:
        self._made += 1
        return f"{self._prefix}.{self._made}"
