"""Writing ONNX nodes by hand: names and constants made on the way."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper


class Nodes:
    """The nodes of one graph, main or sub, in the order they are written.

    Constants become initialisers of the main graph, where subgraphs see them too.
    """

    def __init__(self, main: onnx.GraphProto, prefix: str) -> None:
        """Begin with none.

        Args:
            main: Takes the constants.
            prefix: Begins the name of every value made here; one graph's own.
        """
        self.nodes: list[onnx.NodeProto] = []
        self._main = main
        self._prefix = prefix
        self._made = 0

    def __call__(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node of one output and name that output, `out` if given."""
        output = out or self._name()
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def several(self, n: int, op: str, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node of n outputs and name them."""
        outputs = [self._name() for _ in range(n)]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: ArrayLike, dtype: Any = np.int64) -> str:
        """Add an initialiser."""
        name = self._name()
        self._main.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def _name(self) -> str:
        self._made += 1
        return f"{self._prefix}.{self._made}"
