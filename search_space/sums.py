"""The sum of a node: each of its terms is added up in place as soon as it is there."""

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


class Sum:
    """The sum of at least one term, all of one shape (B, C, H, W); none of them is changed."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.ours = False  # whether nobody else sees the total
        self.products: SumOfProducts | None = None

    def add(self, term: Tensor | Scaled | Product) -> None:
        """Add a term."""
        if isinstance(term, Product):
            if self.products is None:
                self.products = SumOfProducts(term)
            else:
                self.products.add(term)
        elif isinstance(term, Scaled):
            if self.total is not None and not self.ours:
                self.total = self.total.clone()
            self.total = _AddScaled.apply(self.total, *term)
            self.ours = True
        elif self.total is None:
            self.total = term
        else:
            self.total = self.total.add_(term) if self.ours else self.total + term
            self.ours = True

    def result(self) -> Tensor:
        """Return the sum; it takes no more terms."""
        if self.products is not None:
            self.add(self.products.result())
        assert self.total is not None, "a node has at least one term"
        return self.total


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
