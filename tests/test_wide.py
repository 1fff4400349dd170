"""Separable convolutions side by side, as on a GPU, against the same ones alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import generator, make_shape, random_images, random_mask, random_parameters

from fedmetanas.search_space import operations
from fedmetanas.search_space.alphas import Mask, Noise
from fedmetanas.search_space.execution import terms
from fedmetanas.search_space.execution.wide import wide
from fedmetanas.search_space.kernels.depthwise import _on_gpu, on_coarser_images
from fedmetanas.search_space.kernels.pointwise import grouped_pointwise
from fedmetanas.search_space.modules import SeparableConv
from fedmetanas.search_space.names import DEFAULT_OPERATIONS
from fedmetanas.search_space.prediction import Relaxed

DOUBLE = torch.float64
CHANNELS = 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=DOUBLE).requires_grad_()


def assert_same_gradients(
    result: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor]
) -> None:
    torch.testing.assert_close(result, expected)
    direction = torch.randn(expected.shape, generator=generator(9), dtype=DOUBLE)
    ours, theirs = (
        torch.autograd.grad((values * direction).sum(), inputs) for values in (result, expected)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("outputs", [2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_grouped_pointwise_convolution_is_pytorchs(groups: int, outputs: int) -> None:
    x, weight = random(2, groups * 3, 5, 4), random(groups, outputs, 3, 1, 1, seed=1)

    result = grouped_pointwise(x, weight)

    assert_same_gradients(result, F.conv2d(x, weight.flatten(0, 1), groups=groups), [x, weight])
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_it_can_be_differentiated_twice() -> None:
    x, weight = random(2, 6, 3, 2), random(2, 3, 3, 1, 1, seed=1)

    assert torch.autograd.gradgradcheck(grouped_pointwise, [x, weight])


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("dilation", "size"), [(2, (6, 8)), (2, (2, 4)), (3, (6, 9))])
def test_a_dilated_convolution_is_one_of_coarser_images(
    dilation: int, size: tuple[int, int], kernel: int
) -> None:
    x, weight = random(2, 3, *size), random(3, 1, kernel, kernel, seed=1)
    padding = dilation * (kernel // 2)

    result = on_coarser_images(x, weight, dilation)

    expected = F.conv2d(x, weight, None, 1, padding, dilation, groups=3)
    assert_same_gradients(result, expected, [x, weight])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_gpus_way_of_a_depthwise_convolution_is_pytorchs(stride: int, dilation: int) -> None:
    x, weight = random(2, 3, 12, 18), random(3, 1, 5, 5, seed=1)

    result = _on_gpu(x, weight, stride, dilation)

    expected = F.conv2d(x, weight, None, stride, 2 * dilation, dilation, groups=3)
    assert_same_gradients(result, expected, [x, weight])


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("kernel", "dilation", "times"), [(3, 1, 2), (5, 2, 1), (3, 1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_each_is_as_if_computed_alone(
    norm: str, stride: int, kernel: int, dilation: int, times: int, scaled: bool
) -> None:
    made = [SeparableConv(CHANNELS, kernel, stride, norm, dilation, times) for _ in range(3)]
    source = generator(1)
    for conv in made:
        for parameter in conv.double().parameters():
            drawn = torch.randn(parameter.shape, generator=source, dtype=DOUBLE)
            parameter.data.copy_(drawn)
    x = random(3, CHANNELS, 8, 6)
    factors = [random(CHANNELS, seed=number) for number in range(3)] if scaled else None

    results = wide(x.relu(), made, factors)

    ones = [torch.ones(CHANNELS, dtype=DOUBLE)] * 3
    pairs = zip(made, factors or ones, strict=True)
    expected = torch.stack([conv(x) * factor[:, None, None] for conv, factor in pairs])
    weights = [parameter for conv in made for parameter in conv.parameters()]
    assert_same_gradients(torch.stack(results), expected, [x, *weights, *(factors or [])])


@pytest.mark.parametrize("size", [(8, 8), (11, 10), (28, 28)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_supernet_is_the_same_with_them(
    norm: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = make_shape(nodes=3, layers=3, norm=norm, operations=(*DEFAULT_OPERATIONS, "none"))
    network, theta = random_parameters(shape, 5)
    images, _ = random_images(shape, 6, size)
    noise = Noise.draw(shape.topology, generator(7), DOUBLE)
    theta = theta.with_tensors([tensor.requires_grad_() for tensor in theta.tensors()])
    for mask in (Mask.full(shape.topology), random_mask(shape.topology, 1)):
        relaxed = Relaxed(network, shape, mask, 0.8, "gumbel")
        expected = relaxed.predict(*theta, images, noise)
        calls: list[int] = []

        def counted(*arguments: Any, calls: list[int] = calls) -> tuple[torch.Tensor, ...]:
            calls.append(len(arguments))
            return wide(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(terms, "is_small", lambda x: False)
            patch.setattr(terms, "is_on_gpu", lambda x: True)
            patch.setattr(terms, "wide", counted)
            result = relaxed.predict(*theta, images, noise)

        assert calls
        torch.testing.assert_close(result, expected)
        direction = torch.randn(result.shape, generator=generator(8), dtype=DOUBLE)
        ours, theirs = (
            torch.autograd.grad((values * direction).sum(), theta.tensors(), materialize_grads=True)
            for values in (result, expected)
        )
        torch.testing.assert_close(ours, theirs)


def test_a_subclass_is_computed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(SeparableConv):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 2

    factory = lambda channels, stride, norm: Half(channels, 3, stride, norm)  # noqa: E731
    monkeypatch.setitem(operations.OPERATIONS, "halved", factory)
    shape = make_shape(nodes=1, layers=1, operations=("halved", "skip_connect"))
    network, theta = random_parameters(shape, 5)
    images, _ = random_images(shape, 6, (8, 8))
    relaxed = Relaxed(network, shape, Mask.full(shape.topology), 0.8, "gumbel")
    expected = relaxed.predict(*theta, images)
    monkeypatch.setattr(terms, "is_small", lambda x: False)
    monkeypatch.setattr(terms, "is_on_gpu", lambda x: True)

    torch.testing.assert_close(relaxed.predict(*theta, images), expected)
