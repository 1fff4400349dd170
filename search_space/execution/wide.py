"""Separable convolutions of one kind that leave a state, as one with more channels.

On a GPU a kernel that moves a few megabytes takes as long to start as to run. There all G
convolutions of the same kernel, dilation and number of stages are computed side by side,
(B, G C, H, W): one depthwise convolution, one grouped pointwise convolution and one norm a stage.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmetanas.search_space.kernels.depthwise import depthwise
from fedmetanas.search_space.kernels.pointwise import grouped_pointwise
from fedmetanas.search_space.modules import SeparableConv, normalise


def is_on_gpu(x: Tensor) -> bool:
    """Return whether a state is one for which this is faster."""
    return x.device.type != "cpu"


def wide(
    x: Tensor, convs: Sequence[SeparableConv], factors: Sequence[Tensor] | None
) -> tuple[Tensor, ...]:
    """Return separable convolutions of one state, each as if computed alone.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W), the state behind its ReLU, best in the memory format ``channels_last``.
    convs : sequence of SeparableConv
        G of them, at least one, all of the same kernel, dilation, stages, stride and norm.
    factors : sequence of Tensor, optional
        What the channels of each result are multiplied by, (C,).

    Returns
    -------
    tuple of Tensor
        G times (B, C, H', W').
    """
    last = len(convs[0].stages) - 1
    y = _repeated(x, len(convs))
    for number, stages in enumerate(zip(*(conv.stages for conv in convs), strict=True)):
        first = stages[0].depthwise
        kernels = torch.cat([stage.depthwise.weight for stage in stages])
        y = depthwise(y.relu() if number else y, kernels, first.stride, first.dilation)
        y = grouped_pointwise(y, torch.stack([stage.pointwise.weight for stage in stages]))
        groups = stages[0].pointwise.norm.groups
        factor = torch.cat(list(factors)) if factors is not None and number == last else None
        y = normalise(y, None if groups is None else len(convs) * groups, factor)
    return torch.split(y, x.shape[1], dim=1)


def _repeated(x: Tensor, count: int) -> Tensor:
    """Return (B, count C, H, W), channels last: the same channels over and over."""
    pixels = x.permute(0, 2, 3, 1)
    wide = pixels[..., None, :].expand(*pixels.shape[:3], count, pixels.shape[3])
    return wide.flatten(3).permute(0, 3, 1, 2)
