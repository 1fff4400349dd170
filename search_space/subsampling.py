"""Every so manieth pixel of an image, with one pass for the gradient."""

from typing import Any

import torch
from torch import Tensor


class _Subsample(torch.autograd.Function):
    """Cut out a grid of pixels; see :func:`subsample`. A slice's own gradient takes two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: int, start: int) -> Tensor:
        ctx.size, ctx.step, ctx.start = x.shape, step, start
        pixels = x.permute(0, 2, 3, 1)[:, start::step, start::step]
        return pixels.contiguous().permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        count, channels, height, width = ctx.size
        spread = slope.new_zeros(count, height, width, channels)
        spread[:, ctx.start :: ctx.step, ctx.start :: ctx.step] = slope.permute(0, 2, 3, 1)
        return spread.permute(0, 3, 1, 2), None, None


def subsample(x: Tensor, step: int, start: int = 0) -> Tensor:
    """Return each `step`-th row and column of `x` (B, C, H, W) from `start` on, channels last."""
    return _Subsample.apply(x, step, start)  # type: ignore[no-any-return]
