"""Sums of pointwise convolutions with their batch normalisation, against PyTorch's, one by one."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import generator

from fedmetanas.search_space.kernels import pointwise
from fedmetanas.search_space.kernels.pointwise import Product, SumOfProducts

Compute = Callable[..., torch.Tensor]


def inputs(count: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Images whose channels differ in mean and deviation, weights and factors, `count` times."""
    source = generator(0)
    tensors = []
    for _ in range(count):
        x = torch.randn(4, 3, 5, 6, generator=source)
        x = x * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
        x = x + torch.tensor([2.0, -1.0, 0.5])[:, None, None]
        weight = torch.randn(2, 3, 1, 1, generator=source)
        tensors += [x, weight, torch.rand(2, generator=source)]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def products(tensors: tuple[torch.Tensor, ...]) -> list[Product]:
    return [Product(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]


def ours(*tensors: torch.Tensor) -> torch.Tensor:
    first, *others = products(tensors)
    total = SumOfProducts(first)
    for product in others:
        total.add(product)
    return total.result()


def alone(*tensors: torch.Tensor) -> torch.Tensor:
    """Compute each product by itself."""
    return torch.stack([product.result() for product in products(tensors)]).sum(dim=0)


def by_pytorch(*tensors: torch.Tensor) -> torch.Tensor:
    terms = [
        F.batch_norm(F.conv2d(p.x, p.weight), None, None, p.factor, training=True)
        for p in products(tensors)
    ]
    return torch.stack(terms).sum(dim=0)


BOTH = pytest.mark.parametrize("compute", [ours, alone])


@pytest.fixture(params=["products", "convolutions"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small images be computed by what is there for these, and by what is for large ones."""
    if request.param == "convolutions":
        monkeypatch.setattr(pointwise, "SMALL", 0)


@BOTH
@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_are_pytorchs(
    format: torch.memory_format, count: int, compute: Compute
) -> None:
    tensors = inputs(count)
    for i in range(0, len(tensors), 3):
        tensors[i] = tensors[i].detach().contiguous(memory_format=format).requires_grad_()
    expected = by_pytorch(*tensors)
    direction = torch.randn(expected.shape, generator=generator(1), dtype=torch.float64)

    result = compute(*tensors)

    torch.testing.assert_close(result, expected)
    slopes = torch.autograd.grad((result * direction).sum(), tensors)
    expected_slopes = torch.autograd.grad((expected * direction).sum(), tensors)
    torch.testing.assert_close(slopes, expected_slopes)


def test_an_image_may_be_in_several_products() -> None:
    x, weight, factor, _, other, weak = inputs(2)
    both = x, weight, factor, x, other, weak

    slopes = torch.autograd.grad(ours(*both).square().sum(), [x, weight, other])

    expected = torch.autograd.grad(by_pytorch(*both).square().sum(), [x, weight, other])
    torch.testing.assert_close(slopes, expected)


@BOTH
def test_it_can_be_differentiated_twice(compute: Compute) -> None:
    assert torch.autograd.gradgradcheck(compute, inputs(2))


@BOTH
@pytest.mark.usefixtures("by")
def test_single_precision_is_near_double(compute: Compute) -> None:
    exact, tensors = inputs(3), inputs(3, torch.float32)
    expected = by_pytorch(*exact)
    direction = torch.randn(expected.shape, generator=generator(1), dtype=torch.float64)

    result = compute(*tensors)

    torch.testing.assert_close(result.double(), expected, atol=2e-5, rtol=0)
    slopes = torch.autograd.grad((result * direction.float()).sum(), tensors)
    expected_slopes = torch.autograd.grad((expected * direction).sum(), exact)
    for slope, exact_slope in zip(slopes, expected_slopes, strict=True):
        error = (slope.double() - exact_slope).abs().max() / exact_slope.abs().max()
        assert error < 2e-5


@BOTH
def test_a_channel_without_variance_stays_finite(compute: Compute) -> None:
    _, weight, factor = inputs(1, torch.float32)
    x = torch.full((4, 3, 5, 6), 7.0, requires_grad=True)

    result = compute(x, weight, factor)

    (slope,) = torch.autograd.grad(result.square().sum(), x)
    assert result.abs().max() < 0.1
    assert torch.isfinite(slope).all()
