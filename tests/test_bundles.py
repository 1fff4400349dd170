"""Separable convolutions in a bundle against the same ones, one by one."""

import pytest
import torch
from helpers import generator

from fedmetanas.search_space.execution.bundles import bundle, kind
from fedmetanas.search_space.modules import SeparableConv

KINDS = ((3, 1, 2), (5, 1, 2), (3, 2, 1), (5, 2, 1), (3, 1, 3))  # kernel, dilation, times
CHANNELS = 4


def convs(stride: int, norm: str, times: tuple[int, ...]) -> list[SeparableConv]:
    """Two of each kind with random weights, sorted as a bundle asks for."""
    source = generator(1)
    made = [
        SeparableConv(CHANNELS, kernel, stride, norm, dilation, repeats)
        for _ in range(2)
        for kernel, dilation, repeats in KINDS
        if repeats in times
    ]
    for conv in made:
        for parameter in conv.double().parameters():
            drawn = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter.data.copy_(drawn)
    return sorted(made, key=kind)


def one_by_one(
    x: torch.Tensor,
    made: list[SeparableConv],
    others: list[torch.Tensor],
    coefficients: torch.Tensor,
) -> torch.Tensor:
    results = torch.stack([*(conv(x) for conv in made), *others])
    return torch.einsum("ng,gbchw->nbchw", coefficients, results)


@pytest.mark.parametrize("times", [(1,), (2,), (1, 2), (1, 2, 3)])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 2), (3, 12), (4, 4), (3, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_value_and_gradients(
    norm: str, stride: int, size: tuple[int, int], times: tuple[int, ...]
) -> None:
    source = generator(2)
    made = convs(stride, norm, times)
    x = torch.randn(3, CHANNELS, *size, generator=source, dtype=torch.float64).requires_grad_()
    shape = made[0](x).shape
    others = [torch.randn(shape, generator=source, dtype=torch.float64) for _ in range(2)]
    coefficients = torch.randn(3, len(made) + 2, generator=source, dtype=torch.float64)
    leaves = [x, coefficients.requires_grad_(), *(other.requires_grad_() for other in others)]
    leaves += [parameter for conv in made for parameter in conv.parameters()]

    result = bundle(x.relu(), made, others, coefficients)

    expected = one_by_one(x, made, others, coefficients)
    torch.testing.assert_close(result, expected)
    assert result[0].is_contiguous(memory_format=torch.channels_last)
    direction = torch.randn(result.shape, generator=source, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((sums * direction).sum(), leaves) for sums in (result, expected)
    )
    torch.testing.assert_close(ours, theirs)
