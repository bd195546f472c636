"""What every benchmark prints about where and with what it ran, and where RecBole is."""

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe(*packages: str) -> str:
    """The processor, the GPU if PyTorch is named and has one, and the packages' versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    gpu = gpu_name() if "torch" in packages else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}; Python {platform.python_version()}; " + ", ".join(
        found
    )


def gpu_name() -> str:
    """The first GPU's name, after a comma; empty where PyTorch has none."""
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def beside_recbole(doc: str | None, *, length: int | None = None) -> argparse.Namespace:
    """The arguments of a benchmark that has RecBole as one of its sides.

    Args:
        doc: The benchmark's docstring.
        length: L, unless `--length` gives another; None where there is no such option.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recbole-python", type=Path, default=Path(".recbole/bin/python"))
    parser.add_argument("--rounds", type=int, default=3)
    if length:
        parser.add_argument("--length", type=int, default=length, help="L")
    options = parser.parse_args()
    if not options.recbole_python.exists():
        sys.exit(f"{options.recbole_python} is not there: run `make recbole` first.")
    return options
