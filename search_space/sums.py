"""The sum of a node: each of its large terms is added up in place as soon as it is there."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pointwise import Product, SumOfProducts


class Scaled(NamedTuple):
    """A tensor times a number, still to be computed.

    Attributes
    ----------
    x : Tensor
        (B, C, H, W), best in the memory format ``channels_last``.
    factor : Tensor
        (C,), the same number for each channel.
    """

    x: Tensor
    factor: Tensor


def sum_of(terms: Iterable[Tensor | Scaled | Product]) -> Tensor:
    """Return the sum of at least one term.

    Parameters
    ----------
    terms : iterable
        All of one shape (B, C, H, W). None is changed.
    """
    total: Tensor | None = None
    ours = False
    for term in _without_products(terms):
        if isinstance(term, Scaled):
            total = _AddScaled.apply(total if total is None or ours else total.clone(), *term)
            ours = True
        elif total is None:
            total = term
        else:
            total, ours = total.add_(term) if ours else total + term, True
    assert total is not None, "a node has at least one term"
    return total


def _without_products(
    terms: Iterable[Tensor | Scaled | Product],
) -> Iterator[Tensor | Scaled]:
    """Yield the terms, all products as one at the end."""
    products = None
    for term in terms:
        if not isinstance(term, Product):
            yield term
        elif products is None:
            products = SumOfProducts(term)
        else:
            products.add(term)
    if products is not None:
        yield products.result()


class _AddScaled(torch.autograd.Function):
    """Add a tensor times a number to a sum, in place."""

    @staticmethod
    def forward(ctx: Any, total: Tensor | None, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor)
        if total is None:
            return x * factor[0]
        ctx.mark_dirty(total)
        return total.addcmul_(x, factor[0])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, factor = ctx.saved_tensors
        before = slope if ctx.needs_input_grad[0] else None
        of_number = torch.dot(_flat(slope), _flat(x))
        return before, slope * factor[0], F.pad(of_number[None], (0, len(factor) - 1))


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)
