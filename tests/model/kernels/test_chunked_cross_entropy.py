"""Cross-entropy in chunks: the formula's value and gradients, in bounded memory."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.kernels import disabled
from model.kernels.chunked_cross_entropy import chunked_cross_entropy, plain_cross_entropy


def rows(seed: int, count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


class Largest(TorchDispatchMode):
    """Notes the largest tensor made, forward or backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numel = max(self.numel, made.numel())
        return made


@given(st.integers(1, 20), st.integers(2, 60), st.integers(1, 70), st.integers(0, 1000))
def test_chunks_give_the_value_and_the_gradients_of_the_whole(
    count: int, n_items: int, chunk: int, seed: int
) -> None:
    torch.manual_seed(seed)
    # Each target more than once: its gradients add up.
    target = torch.randint(0, n_items, (count,))
    inputs = [
        torch.randn(count, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(n_items, 5, dtype=torch.float64, requires_grad=True),
    ]
    for weight in (None, 0.1 + torch.rand(count, dtype=torch.float64)):
        whole = plain_cross_entropy(*inputs, target, weight)
        chunked = chunked_cross_entropy(inputs[0], inputs[1], target, chunk, weight)
        torch.testing.assert_close(chunked, whole)
        gradients = (torch.autograd.grad(3 * loss, inputs) for loss in (chunked, whole))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_large_logits_do_not_overflow() -> None:
    output, items = 200 * rows(0, 4, 8), 200 * rows(1, 31, 8)
    target = torch.tensor([1, 2, 3, 4])
    chunked = chunked_cross_entropy(output, items, target, 5)
    torch.testing.assert_close(chunked, plain_cross_entropy(output, items, target))
    assert torch.isfinite(chunked)


def test_under_autocast_the_gradients_are_those_of_float32() -> None:
    """Where the targets are nearly certain, a normaliser in bfloat16 would turn the gradient."""
    items = rows(0, 60, 16).requires_grad_()
    target = torch.arange(1, 33)
    output = (0.7 * items.detach()[target] + 0.1 * rows(1, 32, 16)).requires_grad_()
    expected = torch.autograd.grad(plain_cross_entropy(output, items, target), (output, items))
    for taken in (output, output.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            loss = chunked_cross_entropy(taken, items, target, 7)
        assert loss.dtype == torch.float32
        tolerance = 1e-5 if taken is output else 0.1  # the outputs themselves are rounded
        for mine, theirs in zip(torch.autograd.grad(loss, (output, items)), expected, strict=True):
            assert (mine - theirs).norm() < tolerance * theirs.norm()


def test_chunks_bound_the_logits_memory_in_both_passes() -> None:
    count, n_items, dim, chunk = 64, 5000, 4, 250
    output = rows(0, count, dim).requires_grad_()
    items = rows(1, n_items, dim).requires_grad_()
    target = torch.arange(count)
    with Largest() as chunked:
        chunked_cross_entropy(output, items, target, chunk).backward()
    with Largest() as whole:
        plain_cross_entropy(output, items, target).backward()
    assert whole.numel == count * n_items
    assert chunked.numel <= max(count * chunk, n_items * dim)  # logits, the items' gradient


def test_disabled_it_is_the_plain_formula() -> None:
    output, items, target = rows(0, 4, 2), rows(1, 31, 2), torch.tensor([1, 2, 3, 4])
    with disabled("chunked_cross_entropy"), Largest() as whole:
        loss = chunked_cross_entropy(output, items, target, 5)
    assert whole.numel == 4 * 31
    assert loss.equal(plain_cross_entropy(output, items, target))
