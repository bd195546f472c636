"""ONNX graphs of a network, and how they are checked."""
