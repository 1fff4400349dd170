"""The depthwise convolution's own gradients against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from helpers import generator

from search_space.depthwise import depthwise

SIZES = ((7, 8), (4, 2), (9, 11), (23, 3))  # the latter two have more than 64 pixels
CASES = [(k, s, d, size) for k in (3, 5) for s in (1, 2) for d in (1, 2) for size in SIZES]


def inputs(kernel: int, size: tuple[int, int]) -> list[torch.Tensor]:
    source = generator(kernel + size[0])
    shapes = [(2, 3, *size), (3, 1, kernel, kernel)]
    drawn = [torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]
    return [tensor.requires_grad_() for tensor in drawn]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "size"), CASES)
def test_value_and_gradients_are_pytorchs(
    kernel: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    x, weight = inputs(kernel, size)
    padding = dilation * (kernel - 1) // 2
    expected = F.conv2d(x, weight, None, stride, padding, dilation, groups=3)
    direction = torch.randn(expected.shape, generator=generator(1), dtype=torch.float64)

    result = depthwise(x, weight, stride, dilation)

    torch.testing.assert_close(result, expected)
    ours = torch.autograd.grad((result * direction).sum(), [x, weight])
    theirs = torch.autograd.grad((expected * direction).sum(), [x, weight])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "size"), CASES[::3])
def test_it_can_be_differentiated_twice(
    kernel: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    leaves = inputs(kernel, size)

    assert torch.autograd.gradgradcheck(lambda x, w: depthwise(x, w, stride, dilation), leaves)
