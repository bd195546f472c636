"""`make bench`: every benchmark that needs no GPU, one after the other, each in its own process."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "training",
    "kernels",
    "encoder",
    "retrieval",
    "end_to_end",
    "million_users",
    "evaluation",
    "data",
    "related",
    "scale_out",
    "sharing",
)

for name in BENCHMARKS:
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)
