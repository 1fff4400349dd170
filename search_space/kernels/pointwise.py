"""Pointwise (1x1) convolutions, and sums of such with their batch normalisation.

A pointwise convolution is a product p = x W^T of all pixels x (R, C) with the weights W (C', C).
The statistics of p over the batch follow from those of x, which are few: with m the mean of x and
S its covariance (C, C),

    mean of p = W m        variance of p = diag(W S W^T)

so that the normalised result, times a factor f for each channel, is itself a product of x,

    y = x A^T + b,    s = f / sqrt(variance of p + eps),    A = diag(s) W,    b = -s * (W m)

and p is neither written nor read nor kept for the gradient, which is again a few products. A node
sums many such results: each x A^T is added to the sum while it is computed, and all b at the end.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

EPSILON = 1e-5  # as PyTorch's batch normalisation
SMALL = 2**16  # numbers in an image up to which products are faster than the convolution library
MANY = 64  # pixels in a row of a sum, to all of which the same is added

#: Whether PyTorch has a convolution that adds to what is there.
CONVOLUTION_ADDS = hasattr(torch.ops.mkldnn, "_convolution_pointwise_")


class Product(NamedTuple):
    """A pointwise convolution with batch normalisation that is still to be computed.

    Attributes
    ----------
    x : Tensor
        (B, C, H, W), best in the memory format ``channels_last``.
    weight : Tensor
        (C', C, 1, 1).
    factor : Tensor
        (C',), multiplied in behind the normalisation.
    """

    x: Tensor
    weight: Tensor
    factor: Tensor

    @property
    def shape(self) -> torch.Size:
        """Return that of the result, (B, C', H, W)."""
        return torch.Size((len(self.x), len(self.weight), *self.x.shape[2:]))

    def result(self) -> Tensor:
        """Compute it, (B, C', H, W)."""
        return _Multiply.apply(*self)  # type: ignore[no-any-return]


class SumOfProducts:
    """The sum of some products, which share B, C', H and W.

    The total has many pixels in a row, since theirs are short: (B H W / many, many C').

    Parameters
    ----------
    product : Product
        The first.
    """

    def __init__(self, product: Product) -> None:
        count, channels, height, width = product.shape
        self.size = count, height, width, channels
        pixels = count * height * width
        self.many = math.gcd(pixels, MANY)
        self.total = product.x.new_zeros(pixels // self.many, self.many * channels)
        self.shifts: list[Tensor] = []
        self.add(product)

    def add(self, product: Product) -> None:
        """Compute one more and add it."""
        self.total, shift = _AddProduct.apply(self.total, *product)
        self.shifts.append(shift)

    def result(self) -> Tensor:
        """Return the sum, (B, C', H, W); it takes no more products."""
        shift = torch.stack(self.shifts).sum(dim=0)
        return self.total.add_(shift.repeat(self.many)).view(self.size).permute(0, 3, 1, 2)


class _Multiply(torch.autograd.Function):
    """Return x A^T + b as an image; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        return _convolve(x, *_normalising(ctx, x, weight, factor))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        pixels = _pixels(slope)
        return _gradient(ctx, pixels, pixels.sum(dim=0))


class _AddProduct(torch.autograd.Function):
    """Add x A^T to a total, in place, and return it and b; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, total: Tensor, x: Tensor, weight: Tensor, factor: Tensor
    ) -> tuple[Tensor, Tensor]:
        matrix, shift = _normalising(ctx, x, weight, factor)
        ctx.mark_dirty(total)
        pixels = _pixels(x)
        _add_product(total.view(len(pixels), -1), pixels, matrix, x.shape)
        return total, shift

    @staticmethod
    def backward(ctx: Any, of_total: Tensor, of_shift: Tensor) -> tuple[Tensor | None, ...]:
        before = of_total if ctx.needs_input_grad[0] else None
        slope = of_total.view(-1, len(of_shift))
        return before, *_gradient(ctx, slope, of_shift)


def _normalising(ctx: Any, x: Tensor, weight: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (C', C) and b (C',), and save what :func:`_gradient` needs."""
    pixels, matrix = _pixels(x), weight.flatten(1)
    mean = pixels.mean(dim=0)
    covariance = torch.addr(
        _sum_of_outer(pixels, pixels, x.shape), mean, mean, beta=1 / len(pixels), alpha=-1
    )
    spread = matrix @ covariance
    variance = (spread * matrix).sum(dim=1).clamp(min=0)  # rounding may leave it below
    inverse = (variance + EPSILON).rsqrt()
    center = matrix @ mean
    ctx.save_for_backward(x, weight, factor, mean, spread, center, inverse)
    scale = inverse * factor
    return scale[:, None] * matrix, -center * scale


def _gradient(ctx: Any, slope: Tensor, of_shift: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight and factor from those of x A^T (R, C') and b."""
    x, weight, factor, mean, spread, center, inverse = ctx.saved_tensors
    if torch.is_grad_enabled():  # the gradient is to be differentiated, too
        return _by_autograd(x, weight, factor, slope, of_shift)
    pixels, matrix = _pixels(x), weight.flatten(1)
    scale = (inverse * factor)[:, None]
    product = _sum_of_outer(slope, pixels, x.shape)
    of_factor = inverse * ((product * matrix).sum(dim=1) - center * of_shift)
    pull = of_factor * inverse
    of_matrix = scale * (product - torch.outer(of_shift, mean) - pull[:, None] * spread)
    scaled = scale * matrix
    of_mean = ((center * pull - of_shift) @ scaled) / len(pixels)
    of_x = _convolve(_image(slope, x.shape), scaled.t(), of_mean)
    of_pixels = of_x.permute(0, 2, 3, 1).view(pixels.shape)  # no copy: it is changed in place
    of_variance = matrix.t() @ (pull[:, None] * scaled / -len(pixels))
    _add_product(of_pixels, pixels, of_variance, x.shape)
    return of_x, of_matrix.view_as(weight), of_factor


def _pixels(x: Tensor) -> Tensor:
    """Return (B, C, H, W) as (B H W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(pixels: Tensor, size: torch.Size) -> Tensor:
    """Return (B H W, C') as (B, C', H, W), with B, H and W of `size`."""
    count, _, height, width = size
    return pixels.view(count, height, width, -1).permute(0, 3, 1, 2)


def _convolve(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return the product of all pixels with a matrix (C', C) plus a shift (C',), channels last.

    As a convolution, which adds the shift while it multiplies.
    """
    product = F.conv2d(x, matrix[:, :, None, None], shift)
    return product.contiguous(memory_format=torch.channels_last)


def _sum_of_outer(y: Tensor, x: Tensor, size: torch.Size) -> Tensor:
    """Return the sum of y x^T over all pixels, (B H W, C') and (B H W, C), of images of `size`.

    As the weight gradient of a convolution, which is faster than a matrix product where the rows
    are short and very many.
    """
    if x.numel() <= SMALL:
        return y.t() @ x
    shape = y.shape[1], x.shape[1], 1, 1
    images = _image(x, size), shape, _image(y, size)
    return conv2d_weight(*images).flatten(1)  # type: ignore[no-any-return, no-untyped-call]


def _add_product(total: Tensor, x: Tensor, matrix: Tensor, size: torch.Size) -> None:
    """Add x A^T, of pixels (B H W, C) of images of `size`, to a total (B H W, C'), in place.

    As a convolution that adds while it multiplies, where PyTorch has one, made for its compiler:
    it takes 0.6 to 0.9 of the time of a matrix product.
    """
    fits = total.dtype == torch.float32 and total.device.type == "cpu"
    if CONVOLUTION_ADDS and fits and x.numel() > SMALL:
        torch.ops.mkldnn._convolution_pointwise_.binary(
            _image(total, size),
            _image(x, size),
            matrix[:, :, None, None],
            *(None, [0, 0], [1, 1], [1, 1], 1),  # bias, padding, stride, dilation, groups
            *("add", 1.0, None, [], None),  # what is done with the total, and then nothing
        )
    else:
        total.addmm_(x, matrix.t())


def _by_autograd(
    x: Tensor, weight: Tensor, factor: Tensor, slope: Tensor, of_shift: Tensor
) -> tuple[Tensor, ...]:
    """Return the same gradient as a differentiable function of everything."""
    inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in (x, weight, factor)]
    product = _pixels(inputs[0]) @ inputs[1].flatten(1).t()
    variance, mean = torch.var_mean(product, dim=0, correction=0)
    scale = inputs[2] * (variance + EPSILON).rsqrt()
    outputs = product * scale, -mean * scale
    return torch.autograd.grad(outputs, inputs, (slope, of_shift), create_graph=True)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the channels of each pixel: `x` (B, C, H, W), `weight` (C', C, 1, 1)."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


class _GroupedPointwise(torch.autograd.Function):
    """The products of all groups, written side by side; see :func:`grouped_pointwise`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        groups, outputs, inputs = weight.shape
        count, _, height, width = x.shape
        result = x.new_empty(count, height, width, groups * outputs)
        torch.bmm(
            _pixels(x).view(-1, groups, inputs).transpose(0, 1),
            weight.transpose(1, 2),
            out=result.view(-1, groups, outputs).transpose(0, 1),
        )
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _GroupedPointwise.apply(slope, weight.transpose(1, 2))
        if not ctx.needs_input_grad[1]:
            return of_x, None
        # One product of all groups with all, of which the pairs alike are cut out: products of
        # few channels over very many pixels, each on its own, take three times as long.
        product = _pixels(slope).t() @ _pixels(x)
        groups, outputs, inputs = weight.shape
        blocks = product.view(groups, outputs, groups, inputs).diagonal(dim1=0, dim2=2)
        return of_x, blocks.permute(2, 0, 1).contiguous()


def grouped_pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the channels of each pixel, each group of channels with weights of its own.

    Parameters
    ----------
    x : Tensor
        (B, G C, H, W), best in the memory format ``channels_last``.
    weight : Tensor
        (G, C', C, 1, 1).

    Returns
    -------
    Tensor
        (B, G C', H, W), channels last.
    """
    return _GroupedPointwise.apply(x, weight.flatten(2))  # type: ignore[no-any-return]
