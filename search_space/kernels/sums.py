"""The sum of a node: each of its terms is added up in place as soon as it is there."""

from collections.abc import Sequence
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
            spread(term.x, [term.factor], [self])
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


def spread(x: Tensor, factors: Sequence[Tensor], sums: Sequence[Sum]) -> None:
    """Add a tensor, times a number for each, to some sums.

    Parameters
    ----------
    x : Tensor
        As that of :class:`Scaled`.
    factors : sequence of Tensor
        (C,) each, the same number for each channel.
    sums : sequence of Sum
        As many; one that is there twice gets both.
    """
    shares: dict[Sum, Tensor] = {}
    for each, factor in zip(sums, factors, strict=True):
        shares[each] = shares[each] + factor if each in shares else factor
    for each in shares:
        if each.total is not None and not each.ours:
            each.total = each.total.clone()
        each.ours = True
    totals = _Spread.apply(x, *shares.values(), *(each.total for each in shares))
    for each, total in zip(shares, totals, strict=True):
        each.total = total


class _Spread(torch.autograd.Function):
    """Add a tensor times numbers to sums, in place; its gradient, too, is added up in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *factors_and_totals: Tensor | None) -> tuple[Tensor, ...]:
        count = len(factors_and_totals) // 2
        factors, totals = factors_and_totals[:count], factors_and_totals[count:]
        ctx.save_for_backward(x, *factors)
        ctx.mark_dirty(*(total for total in totals if total is not None))
        pairs = zip(factors, totals, strict=True)
        return tuple(
            x * factor[0] if total is None else total.addcmul_(x, factor[0])  # type: ignore[index]
            for factor, total in pairs
        )

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        of_x = slopes[0] * factors[0][0]
        for slope, factor in zip(slopes[1:], factors[1:], strict=True):
            of_x = of_x.addcmul_(slope, factor[0])
        of_factors: list[Tensor | None] = [None] * len(factors)
        if any(ctx.needs_input_grad[1 : 1 + len(factors)]):
            numbers = [torch.dot(_flat(slope), _flat(x)) for slope in slopes]
            of_factors = [F.pad(number[None], (0, len(factors[0]) - 1)) for number in numbers]
        wanted = ctx.needs_input_grad[1 + len(factors) :]
        before = [slope if want else None for slope, want in zip(slopes, wanted, strict=True)]
        return of_x, *of_factors, *before


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)
