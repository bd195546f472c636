"""The FEARec model: network, losses, training and export to ONNX."""
