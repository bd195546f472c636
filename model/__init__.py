"""The FEARec model: network, losses, training and export to ONNX."""

import os

# Before PyTorch is imported: its OpenMP reads the environment then. By default a thread that waits
# for the others spins for 10 ms and more, on a core that they may need: beside other processes,
# training was 5 to 20 times slower. So few spins cost next to nothing to a process that is alone
# (tests/benchmarks/README.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
