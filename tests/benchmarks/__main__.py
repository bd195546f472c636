"""`make bench`: every benchmark that needs no GPU, one after the other, each in its own process."""

import subprocess
import sys
from pathlib import Path

for name in ("training", "encoder", "retrieval", "end_to_end", "million_users", "evaluation"):
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)
