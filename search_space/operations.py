"""Candidate operations of an edge.

The seven (with ``none``, eight) operations of DARTS: Liu, Simonyan and Yang, "DARTS: Differentiable
Architecture Search", 2019, https://arxiv.org/abs/1806.09055, section 3.1.

A new operation is one function from ``(channels, stride, norm)`` to a module, registered by name:

>>> @register("conv_1x1")
... def conv_1x1(channels, stride, norm):
...     return ReLUConvNorm(channels, channels, kernel=1, stride=stride, norm=norm)
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import DepthwiseConv

OperationFactory = Callable[[int, int, str], nn.Module]

OPERATIONS: dict[str, OperationFactory] = {}


def register(name: str) -> Callable[[OperationFactory], OperationFactory]:
    """Register an operation under a name that settings and genotypes can use.

    Parameters
    ----------
    name : str
        A Python identifier that is not taken; it becomes part of the names of the weights.

    Raises
    ------
    ValueError
        If the name is taken or is not an identifier.
    """
    if not name.isidentifier() or name in OPERATIONS:
        raise ValueError(f"operation name {name!r} is taken or not an identifier")

    def add(factory: OperationFactory) -> OperationFactory:
        OPERATIONS[name] = factory
        return factory

    return add


class BatchStatNorm(nn.Module):
    """Batch normalisation by the statistics of the batch at hand, in training and evaluation.

    Running averages of unlike clients would be averages of nothing in particular.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of `x` (B, C, H, W) to mean 0 and variance 1."""
        return F.batch_norm(x, None, None, training=True)


def make_norm(channels: int, norm: str) -> nn.Module:
    """Return a normalisation without weights of its own, as in DARTS's search phase.

    Parameters
    ----------
    channels : int
        Number of channels.
    norm : {"batch", "group"}
        By the statistics of the batch, or of groups of channels of each image (Wu and He, 2018,
        https://arxiv.org/abs/1803.08494), which do not depend on the other images of a batch.
    """
    if norm == "batch":
        return BatchStatNorm()
    groups = math.gcd(channels, max(1, channels // 4))  # of 4 channels, where that divides
    return nn.GroupNorm(groups, channels, affine=False)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class ReLUConvNorm(nn.Sequential):
    """ReLU, convolution, normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, norm: str) -> None:
        super().__init__(nn.ReLU(), conv(inputs, outputs, kernel, stride), make_norm(outputs, norm))


class DilatedConv(nn.Sequential):
    """ReLU, depthwise dilated convolution, pointwise convolution, normalisation."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int, norm: str) -> None:
        super().__init__(
            nn.ReLU(),
            DepthwiseConv(channels, kernel, stride, dilation),
            conv(channels, channels, 1),
            make_norm(channels, norm),
        )


class SeparableConv(nn.Sequential):
    """A depthwise separable convolution, applied twice."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: str) -> None:
        super().__init__(
            DilatedConv(channels, kernel, stride, 1, norm),
            DilatedConv(channels, kernel, 1, 1, norm),
        )


class FactorizedReduce(nn.Module):
    """Halve the size: two pointwise convolutions, the second shifted by a pixel, side by side."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.even = conv(inputs, outputs // 2, 1, stride=2)
        self.odd = conv(inputs, outputs - outputs // 2, 1, stride=2)
        self.norm = make_norm(outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, C, H, W) to (B, outputs, ceil(H / 2), ceil(W / 2))."""
        x = F.relu(x)
        shifted = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))  # padded: odd sizes halve alike
        halves = torch.cat([self.even(x), self.odd(shifted)], dim=1)
        return self.norm(halves)  # type: ignore[no-any-return]


class Zero(nn.Module):
    """No connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the size an operation of this stride has."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


@register("max_pool_3x3")
def max_pool_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Greatest of 3x3, normalised."""
    return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), make_norm(channels, norm))


@register("avg_pool_3x3")
def avg_pool_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Mean of 3x3, borders not counted in, normalised."""
    pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return nn.Sequential(pool, make_norm(channels, norm))


@register("skip_connect")
def skip_connect(channels: int, stride: int, norm: str) -> nn.Module:
    """Identity, or a factorized reduction where the size is halved."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm)


@register("sep_conv_3x3")
def sep_conv_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 3x3, twice."""
    return SeparableConv(channels, 3, stride, norm)


@register("sep_conv_5x5")
def sep_conv_5x5(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 5x5, twice."""
    return SeparableConv(channels, 5, stride, norm)


@register("dil_conv_3x3")
def dil_conv_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 3x3 with dilation 2."""
    return DilatedConv(channels, 3, stride, 2, norm)


@register("dil_conv_5x5")
def dil_conv_5x5(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 5x5 with dilation 2."""
    return DilatedConv(channels, 5, stride, 2, norm)


DEFAULT_OPERATIONS = tuple(OPERATIONS)


@register("none")
def none(channels: int, stride: int, norm: str) -> nn.Module:
    """No connection."""
    return Zero(stride)
