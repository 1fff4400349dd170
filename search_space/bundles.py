"""Separable convolutions that start at one state, computed together where images are small.

On planes of few pixels each call to a library costs more than what it computes. There a depthwise
convolution is one matrix for each channel, which takes the pixels of an image to those of the
result, whatever the kernel's size and dilation. So all G separable convolutions that leave a state,
on all its edges, are a few batched products (B images, P pixels, C channels):

    x (C, B, P)  ->  depthwise (G, C, B, P')  ->  pointwise (G, C, B P')  ->  normalised

once more for those that are applied twice, and last a product with their coefficients, which adds
up what each node gets.
"""

from collections.abc import Sequence
from functools import cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from .depthwise import DepthwiseConv
from .operations import Norm, PointwiseConvNorm, SeparableConv

SMALL = 2**15  # numbers in a state for which the calls cost more than what they compute
SMALL_PLANE = 64  # pixels


def is_small(x: Tensor) -> bool:
    """Return whether a state (B, C, H, W) is one for which bundles are faster; none is on a GPU."""
    few = x.numel() <= SMALL and x.shape[2] * x.shape[3] <= SMALL_PLANE
    return few and x.device.type == "cpu"


def kind(conv: SeparableConv) -> tuple[int, int, int]:
    """Return by what the convolutions of a bundle are sorted."""
    first = conv.stages[0][0]
    return len(conv.stages), first.weight.shape[-1], first.dilation


def bundle(x: Tensor, convs: Sequence[SeparableConv], coefficients: Tensor) -> Tensor:
    """Return weighted sums of separable convolutions of one state.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W), the state behind its ReLU.
    convs : sequence of SeparableConv
        G of them, sorted by :func:`kind`, all of the same channels, stride and norm.
    coefficients : Tensor
        (N, G).

    Returns
    -------
    Tensor
        (N, B, C, H', W'), one sum for each row of the coefficients, channels innermost in memory.
    """
    count, channels, *sides = x.shape
    y = _stage(x.flatten(2).transpose(0, 1), sides, [conv.stages[0] for conv in convs])
    sides = [-(-side // convs[0].stages[0][0].stride) for side in sides]
    if again := [conv.stages[1] for conv in convs if len(conv.stages) > 1]:
        once = len(convs) - len(again)
        y = torch.cat([y[:once], _stage(y[once:].relu(), sides, again)])
    sums = (coefficients @ y.flatten(1)).view(-1, channels, count, *sides)
    return sums.permute(0, 2, 3, 4, 1).contiguous().permute(0, 1, 4, 2, 3)


def _stage(
    x: Tensor, sides: Sequence[int], stages: Sequence[tuple[DepthwiseConv, PointwiseConvNorm]]
) -> Tensor:
    """Apply a depthwise and a pointwise convolution and a norm; return (G, C, B, P').

    The input is one for all, (C, B, P), or one for each, (G, C, B, P).
    """
    spread = x @ _matrices([depthwise for depthwise, _ in stages], sides)
    mixing = torch.stack([pointwise.weight.flatten(1) for _, pointwise in stages])
    mixed = torch.bmm(mixing, spread.flatten(2)).view_as(spread)
    return _normalised(mixed, stages[0][1].norm)


def _matrices(convs: Sequence[DepthwiseConv], sides: Sequence[int]) -> Tensor:
    """Return the matrices (G, C, P, P') of depthwise convolutions."""
    parts = []
    for (size, stride, dilation), own in groupby(
        convs, key=lambda conv: (conv.weight.shape[-1], conv.stride, conv.dilation)
    ):
        kernels = torch.stack([conv.weight.flatten(1) for conv in own])
        places = _places(*sides, size, stride, dilation, kernels.dtype)
        parts.append((kernels @ places.flatten(1)).view(*kernels.shape[:2], *places.shape[1:]))
    return torch.cat(parts)


@cache
def _places(
    height: int, width: int, size: int, stride: int, dilation: int, dtype: torch.dtype
) -> Tensor:
    """Return for every weight of a kernel which pixel it carries where, (k k, P, P').

    It is 1 at (weight, pixel in, pixel out) if the weight takes the one to the other, else 0.
    """
    eye = torch.eye(height * width, dtype=dtype).view(-1, 1, height, width)
    padding = dilation * (size // 2)
    seen = F.unfold(eye, size, dilation, padding, stride)  # (P, k k, P')
    return seen.transpose(0, 1).contiguous()


def _normalised(x: Tensor, norm: Norm) -> Tensor:
    """Normalise (G, C, B, P), each of the G on its own."""
    many, channels, count, pixels = x.shape
    if norm.groups is None:
        return norm(x.view(1, many * channels, count * pixels)).view_as(x)  # type: ignore[no-any-return]
    images = x.flatten(0, 1).transpose(0, 1)
    normalised = torch.group_norm(images, many * norm.groups)
    return normalised.transpose(0, 1).reshape(x.shape)
