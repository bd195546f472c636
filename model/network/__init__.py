"""The network: encoder layers and the spectral core."""
