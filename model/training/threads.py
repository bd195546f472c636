"""The threads of PyTorch."""

import os

import torch

from model.cores import Threads, thread_count


def set_threads(requested: Threads) -> int:
    """Let PyTorch compute in so many threads of this process; returns their number.

    Args:
        requested: The number; `auto` takes ``OMP_NUM_THREADS`` or, where that is not set, the
            cores that this process may use.
    """
    preset = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if requested == "auto" and preset.isdecimal() and int(preset):
        requested = int(preset)
    threads = thread_count(requested)
    torch.set_num_threads(threads)
    return threads
