"""Separable convolutions that start at one state, computed together where images are small.

On planes of few pixels each call to a library costs more than what it computes. There the row of a
depthwise convolution's result is the product of the rows around it, side by side, with a matrix for
each channel, whatever the kernel's size and dilation:

    y[b, i, :] = (x[b, i - reach, :], ..., x[b, i + reach, :]) T        T ((2 reach + 1) W, W')

and that of a very small plane the product of it as a whole, y[b] = x[b] T with T (H W, H' W').
So all G separable convolutions that leave a state, on all its edges, are a few batched products for
their depthwise parts, one for their pointwise parts and one norm; once more for those that repeat
this; and last a product of these, and whatever else leaves the state, with coefficients, which adds
up what each node gets.
"""

import itertools
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmetanas.search_space.kernels.depthwise import DepthwiseConv
from fedmetanas.search_space.modules import Norm, SeparableConv, SeparableStage, normalise

SMALL = 2**14  # numbers in a state for which the calls cost more than what they compute
SMALL_PLANE = 64  # pixels
TINY_PLANE = 16  # pixels up to which it is one row


def is_small(x: Tensor) -> bool:
    """Return whether a state (B, C, H, W) is one for which bundles are faster; none is on a GPU."""
    few = x.numel() <= SMALL and x.shape[2] * x.shape[3] <= SMALL_PLANE
    return few and x.device.type == "cpu"


def kind(conv: SeparableConv) -> tuple[int, int, int]:
    """Return by what the convolutions of a bundle are sorted."""
    first = conv.stages[0].depthwise
    return len(conv.stages), first.weight.shape[-1], first.dilation


def bundle(
    x: Tensor, convs: Sequence[SeparableConv], others: Sequence[Tensor], coefficients: Tensor
) -> Tensor:
    """Return weighted sums of separable convolutions of one state, and of other tensors.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W), the state behind its ReLU.
    convs : sequence of SeparableConv
        G of them, at least one, sorted by :func:`kind`, all of the same channels, stride and norm.
    others : sequence of Tensor
        (B, C, H', W').
    coefficients : Tensor
        (N, G + number of others).

    Returns
    -------
    Tensor
        (N, B, C, H', W'), one sum for each row of the coefficients, channels innermost in memory.
    """
    y = _stage(x.transpose(0, 1)[None], [conv.stages[0] for conv in convs])
    for depth in range(1, len(convs[-1].stages)):
        again = [conv.stages[depth] for conv in convs if len(conv.stages) > depth]
        ready, unready = torch.split(y, [len(convs) - len(again), len(again)])
        y = torch.cat([ready, _stage(unready.relu(), again)])
    y = torch.cat([y, *(other.transpose(0, 1)[None] for other in others)])
    sums = (coefficients @ y.flatten(1)).view(-1, *y.shape[1:])
    return sums.permute(0, 2, 3, 4, 1).contiguous().permute(0, 1, 4, 2, 3)


def _stage(x: Tensor, stages: Sequence[SeparableStage]) -> Tensor:
    """Apply a depthwise and a pointwise convolution and a norm; return (G, C, B, H', W').

    The input is one for all, (1, C, B, H, W), or one for each, (G, C, B, H, W).
    """
    convs = [stage.depthwise for stage in stages]
    count, height, width = x.shape[2:]
    stride = convs[0].stride
    if height * width <= TINY_PLANE:
        rows = x.flatten(3)  # (., C, B, H W)
        matrices = _matrices(convs, height, range(0, height, stride), width)
    else:
        # Rows further away than the plane is high are all margin.
        reach = min(height - 1, max(conv.dilation * (conv.weight.shape[-1] // 2) for conv in convs))
        windows = F.pad(x, (0, 0, reach, reach)).unfold(3, 2 * reach + 1, stride)
        rows = windows.transpose(4, 5).flatten(4).flatten(2, 3)  # (., C, B H', R W)
        matrices = _matrices(convs, 2 * reach + 1, range(reach, reach + 1), width)
    product = "ucbr,gcrw->gcbw" if len(x) == 1 else "gcbr,gcrw->gcbw"
    spread = torch.einsum(product, rows, matrices)  # (G, C, B H', W') or (G, C, B, H' W')
    mixing = torch.cat([stage.pointwise.weight for stage in stages])
    mixed = torch.bmm(mixing.view(*spread.shape[:2], -1), spread.flatten(2))
    shape = (*spread.shape[:2], count, -1, -(-width // stride))
    return _normalised(mixed, count, stages[0].pointwise.norm).view(shape)


def _matrices(convs: Sequence[DepthwiseConv], height: int, centers: range, width: int) -> Tensor:
    """Return the matrices T of depthwise convolutions, (G, C, pixels in, pixels out).

    They map `height` rows of `width` pixels to the rows of the result around `centers`.
    """
    parts = []
    for (size, stride, dilation), own in itertools.groupby(
        convs, key=lambda conv: (conv.weight.shape[-1], conv.stride, conv.dilation)
    ):
        kernels = torch.cat([conv.weight for conv in own]).flatten(1)
        places = _places(height, centers, width, size, stride, dilation, kernels.dtype)
        parts.append(kernels @ places.flatten(1))
    return torch.cat(parts).view(len(convs), -1, *places.shape[1:])


@cache
def _places(
    height: int,
    centers: range,
    width: int,
    size: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return for every weight of a kernel which pixel it carries where, (k k, pixels in, out).

    It is 1 at (weight, pixel in, pixel out) if the weight takes the one to the other, else 0.
    """
    outputs = -(-width // stride)
    places = torch.zeros(size, size, height, width, len(centers), outputs, dtype=dtype)
    for row, column in itertools.product(range(size), repeat=2):
        for (end, center), right in itertools.product(enumerate(centers), range(outputs)):
            above = center + dilation * (row - size // 2)
            start = right * stride + dilation * (column - size // 2)
            if 0 <= above < height and 0 <= start < width:
                places[row, column, above, start, end, right] = 1
    return places.view(size * size, height * width, -1)


def _normalised(x: Tensor, count: int, norm: Norm) -> Tensor:
    """Normalise (G, C, B P), each of the G on its own."""
    if norm.groups is None:
        return normalise(x.flatten(0, 1)[None], None)
    images = x.view(-1, count, x.shape[2] // count).transpose(0, 1)  # (B, G C, P)
    return normalise(images, len(x) * norm.groups).transpose(0, 1).contiguous()
