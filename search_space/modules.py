"""The modules that operations and cells are made of."""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmetanas.search_space.kernels.depthwise import DepthwiseConv, depthwise
from fedmetanas.search_space.kernels.pointwise import Product, pointwise
from fedmetanas.search_space.kernels.subsampling import EVEN_AND_ODD, Subsampling


class Scalable(nn.Module):
    """A module that multiplies its result by a factor (C,) for each channel at no cost.

    Its ``forward`` takes the input and, optionally, the factor.
    """


class Norm(Scalable):
    """Normalisation without weights of its own, as in DARTS's search phase.

    Parameters
    ----------
    groups : int or None
        Number of groups of channels that are normalised for each image (Wu and He, 2018,
        https://arxiv.org/abs/1803.08494); None: each channel by the statistics of the batch, in
        training and evaluation alike. Running averages of unlike clients would be averages of
        nothing in particular.
    """

    def __init__(self, groups: int | None) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Normalise `x` (B, C, H, W) to mean 0 and variance 1, times a factor (C,)."""
        return normalise(x, self.groups, factor)


def normalise(x: Tensor, groups: int | None, factor: Tensor | None = None) -> Tensor:
    """Normalise `x` (B, C, H, W) to mean 0 and variance 1; see :class:`Norm`."""
    if groups is None:
        return F.batch_norm(x, None, None, factor, training=True)
    return torch.group_norm(x, groups, factor)


@cache
def make_norm(channels: int, norm: str) -> Norm:
    """Return a normalisation; the same object for the same arguments.

    Parameters
    ----------
    channels : int
        Number of channels.
    norm : {"batch", "group"}
        By the statistics of the batch, or of groups of four channels of each image, which do not
        depend on the other images of a batch.
    """
    if norm == "batch":
        return Norm(None)
    return Norm(math.gcd(channels, max(1, channels // 4)))  # of 4 channels, where that divides


# One object each, by which a cell sees that operations begin alike.
RELU = nn.ReLU()
IDENTITY = nn.Identity()

#: For what nobody else sees and no gradient needs.
RELU_IN_PLACE = nn.ReLU(inplace=True)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias: one matrix product over the channels of all pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, inputs, H, W) to (B, outputs, H, W)."""
        return pointwise(x, self.weight)


class PointwiseConvNorm(Scalable):
    """A 1x1 convolution without bias, and a normalisation."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1, 1))
        self.norm = make_norm(outputs, norm)

    def forward(
        self, x: Tensor, factor: Tensor | None = None, deferred: bool = False
    ) -> Tensor | Product:
        """Map `x` (B, inputs, H, W) to (B, outputs, H, W), times a factor (outputs,).

        Where it is `deferred` the result may be a product, still to be computed with others.
        """
        outputs, inputs = self.weight.shape[:2]
        # The covariance of many inputs costs more than the statistics of few outputs; on a GPU
        # that of any.
        if self.norm.groups is not None or inputs > outputs or x.device.type != "cpu":
            return self.norm(pointwise(x, self.weight), factor)  # type: ignore[no-any-return]
        factor = x.new_ones(outputs) if factor is None else factor
        product = Product(x, self.weight, factor)
        return product if deferred else product.result()


class ReLUConvNorm(nn.Sequential):
    """ReLU, pointwise convolution, normalisation."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(RELU, PointwiseConvNorm(inputs, outputs, norm))


class SeparableStage(NamedTuple):
    """What is behind a ReLU of a separable convolution."""

    depthwise: DepthwiseConv
    pointwise: PointwiseConvNorm


class SeparableConv(nn.Sequential):
    """ReLU, depthwise convolution, pointwise convolution, normalisation; once or twice over."""

    def __init__(
        self, channels: int, kernel: int, stride: int, norm: str, dilation: int = 1, times: int = 1
    ) -> None:
        stages = [
            SeparableStage(
                DepthwiseConv(channels, kernel, stride if time == 0 else 1, dilation),
                PointwiseConvNorm(channels, channels, norm),
            )
            for time in range(times)
        ]
        first, *more = stages
        again = (module for stage in more for module in (RELU_IN_PLACE, *stage))
        super().__init__(RELU, *first, *again)
        self.stages = stages


class Halve(Subsampling):
    """Halve the size: a pointwise convolution of the even pixels, one of the odd, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pixels = EVEN_AND_ODD
        self.even = PointwiseConv(inputs, outputs // 2)
        self.odd = PointwiseConv(inputs, outputs - outputs // 2)

    def forward(self, x: Tensor | tuple[Tensor, Tensor], cut: bool = False) -> Tensor:
        """Map `x` (B, C, H, W), or what is `cut` out of it, to (B, outputs, H / 2, W / 2).

        Height and width are rounded up.
        """
        even, odd = x if cut else self.pixels(x)
        even, odd = self.even(even), self.odd(odd)
        fewer = [n - m for n, m in zip(even.shape[2:], odd.shape[2:], strict=True)]  # 0 or 1
        if any(fewer):
            odd = F.pad(odd, (0, fewer[1], 0, fewer[0]))
        return torch.cat([even, odd], dim=1)


class FactorizedReduce(nn.Sequential):
    """ReLU, a halving of the size, normalisation."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(RELU, Halve(inputs, outputs), make_norm(outputs, norm))


class AveragePool(nn.Module):
    """Mean of 3x3, borders not counted in: a depthwise convolution, which is faster on a CPU."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        ones = x.new_ones(x.shape[1], 1, 3, 3)
        shares = _shares(x.shape[1:], self.stride, x.dtype, x.device)
        return depthwise(x, ones, self.stride, 1) * shares


@cache
def _shares(shape: torch.Size, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return for each mean one over the number of pixels in it, (1, C, H', W')."""
    image, kernels = (
        torch.ones(size, dtype=dtype, device=device) for size in ((1, *shape), (shape[0], 1, 3, 3))
    )
    counts = depthwise(image, kernels, stride, 1)
    return counts.reciprocal().contiguous(memory_format=torch.channels_last)


class Zero(nn.Module):
    """No connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the size an operation of this stride has."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
