"""The pointwise convolution with its batch normalisation against PyTorch's, one after the other."""

import pytest
import torch
import torch.nn.functional as F
from helpers import generator

from search_space.pointwise import pointwise_batch_norm


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Images whose channels differ in mean and deviation, weights and factors."""
    source = generator(0)
    x = torch.randn(4, 3, 5, 6, generator=source) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    x = x + torch.tensor([2.0, -1.0, 0.5])[:, None, None]
    weight = torch.randn(2, 3, 1, 1, generator=source)
    factor = torch.rand(2, generator=source)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, weight, factor)]


def by_pytorch(x: torch.Tensor, weight: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return F.batch_norm(F.conv2d(x, weight), None, None, factor, training=True)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_are_pytorchs(format: torch.memory_format) -> None:
    x, weight, factor = inputs()
    x = x.detach().contiguous(memory_format=format).requires_grad_()
    expected = by_pytorch(x, weight, factor)
    direction = torch.randn(expected.shape, generator=generator(1), dtype=torch.float64)

    result = pointwise_batch_norm(x, weight, factor)

    torch.testing.assert_close(result, expected)
    ours = torch.autograd.grad((result * direction).sum(), [x, weight, factor])
    theirs = torch.autograd.grad((expected * direction).sum(), [x, weight, factor])
    torch.testing.assert_close(ours, theirs)


def test_without_a_factor_it_is_one() -> None:
    x, weight, _ = inputs()

    torch.testing.assert_close(pointwise_batch_norm(x, weight, None), by_pytorch(x, weight, None))


def test_it_can_be_differentiated_twice() -> None:
    assert torch.autograd.gradgradcheck(pointwise_batch_norm, inputs())


def test_single_precision_is_near_double() -> None:
    exact = by_pytorch(*inputs())

    result = pointwise_batch_norm(*inputs(torch.float32))

    torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=0)


def test_a_channel_without_variance_stays_finite() -> None:
    _, weight, factor = inputs(torch.float32)
    x = torch.full((4, 3, 5, 6), 7.0, requires_grad=True)

    result = pointwise_batch_norm(x, weight, factor)

    (slope,) = torch.autograd.grad(result.square().sum(), x)
    assert result.abs().max() < 0.1
    assert torch.isfinite(slope).all()
