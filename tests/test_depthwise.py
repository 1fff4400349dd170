"""The depthwise convolution's own gradients against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from helpers import generator

from fedmetanas.search_space.kernels.depthwise import SMALL, depthwise

SIZES = ((7, 8), (4, 2), (3, 2), (5, 4), (9, 11), (23, 3))
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


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (3, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", [35, 36])
def test_so_they_are_where_columns_and_coarser_images_are_faster(
    kernel: int, stride: int, dilation: int, width: int
) -> None:
    source = generator(kernel)
    x = torch.randn(3, 24, 30, width, generator=source, dtype=torch.float64).requires_grad_()
    assert x.numel() > SMALL
    weight = torch.randn(24, 1, kernel, kernel, generator=source, dtype=torch.float64)
    weight.requires_grad_()
    padding = dilation * (kernel // 2)
    expected = F.conv2d(x, weight, None, stride, padding, dilation, groups=24)
    direction = torch.randn(expected.shape, generator=source, dtype=torch.float64)

    result = depthwise(x, weight, stride, dilation)

    torch.testing.assert_close(result, expected)
    ours = torch.autograd.grad((result * direction).sum(), [x, weight], create_graph=True)
    theirs = torch.autograd.grad((expected * direction).sum(), [x, weight], create_graph=True)
    torch.testing.assert_close(ours, theirs)
    turns = [torch.randn(t.shape, generator=source, dtype=torch.float64) for t in ours]
    again, expected_again = (
        torch.autograd.grad(grads, [x, weight], turns) for grads in (ours, theirs)
    )
    torch.testing.assert_close(again, expected_again)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "size"), CASES[::3])
def test_it_can_be_differentiated_twice(
    kernel: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    leaves = inputs(kernel, size)

    assert torch.autograd.gradgradcheck(lambda x, w: depthwise(x, w, stride, dilation), leaves)
