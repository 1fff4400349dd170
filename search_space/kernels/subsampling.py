"""Every so manieth pixel of an image, with one pass for the gradient.

Many operations on a state see the same few of its pixels: these are cut out once for all of them,
and so it is their sum that goes back as one gradient of the size of the state.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class _Subsample(torch.autograd.Function):
    """Cut out grids of pixels, one from each start. A slice's own gradient takes two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: int, starts: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.size, ctx.step, ctx.starts = x.shape, step, starts
        pixels = x.permute(0, 2, 3, 1)
        grids = (pixels[:, start::step, start::step] for start in starts)
        return tuple(grid.contiguous().permute(0, 3, 1, 2) for grid in grids)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        count, channels, height, width = ctx.size
        spread = slopes[0].new_zeros(count, height, width, channels)
        for start, slope in zip(ctx.starts, slopes, strict=True):
            spread[:, start :: ctx.step, start :: ctx.step] = slope.permute(0, 2, 3, 1)
        return spread.permute(0, 3, 1, 2), None, None


def subsample(x: Tensor, step: int) -> Tensor:
    """Return each `step`-th row and column of `x` (B, C, H, W), channels last."""
    return _Subsample.apply(x, step, (0,))[0]  # type: ignore[no-any-return]


class Every(nn.Module):
    """Each `step`-th row and column of an image; all pixels for 1."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, C, H, W) to (B, C, ceil(H / step), ceil(W / step))."""
        return x if self.step == 1 else subsample(x, self.step)


@cache
def every(step: int) -> Every:
    """Return the module for a step; the same object for the same step."""
    return Every(step)


class EvenAndOdd(nn.Module):
    """The pixels of even rows and columns, and those of odd ones."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x` (B, C, H, W) to two of (B, C, H / 2, W / 2), rounded up and down."""
        even, odd = _Subsample.apply(x, 2, (0, 1))
        return even, odd


#: One object, by which a cell sees that operations begin alike.
EVEN_AND_ODD = EvenAndOdd()


class Subsampling(nn.Module):
    """A module that sees some pixels alone.

    Attributes
    ----------
    pixels : nn.Module
        Cuts them out; without weights, one object for all that cut out the same.

    Its ``forward`` takes the input and, optionally, whether they are `cut` out of it already.
    """

    pixels: nn.Module
