"""Hand-written autograd functions, each equal to a plain formula but faster or smaller.

Every module holds one kernel and is headed by its formula (`plain_...`, the oracle of its test),
the reason for the kernel, and its measured gain. `disabled` replaces kernels by their formulas.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Kernel = Literal["dropout", "blocked_feed_forward", "chunked_cross_entropy"]

_disabled: set[Kernel] = set()


@contextmanager
def disabled(*kernels: Kernel) -> Iterator[None]:
    """Compute by the plain formulas of some kernels, for benchmarks and tests."""
    new = set(kernels) - _disabled
    _disabled.update(new)
    try:
        yield
    finally:
        _disabled.difference_update(new)


def enabled(kernel: Kernel) -> bool:
    """Whether a kernel computes, rather than its plain formula."""
    return kernel not in _disabled
