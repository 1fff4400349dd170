"""Pointwise (1x1) convolutions, and one with its batch normalisation as a single matrix product.

A pointwise convolution is a product p = x W^T of all pixels x (R, C) with the weights W (C', C).
The statistics of p over the batch follow from those of x, which are few: with m the mean of x and
S its covariance (C, C),

    mean of p = W m        variance of p = diag(W S W^T)

so that the normalised result, times a factor f for each channel, is itself a product of x,

    y = x A^T + b,    s = f / sqrt(variance of p + eps),    A = diag(s) W,    b = -s * (W m)

and p is neither written nor read nor kept for the gradient. The gradient is again a few products.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # as PyTorch's batch normalisation


class _PointwiseBatchNorm(torch.autograd.Function):
    """The product with its gradient; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        mean = x.mean(dim=0)
        covariance = torch.addr(x.t() @ x, mean, mean, beta=1 / len(x), alpha=-1)
        spread = weight @ covariance
        variance = (spread * weight).sum(dim=1).clamp(min=0)  # rounding may leave it below
        inverse = (variance + EPSILON).rsqrt()
        center = weight @ mean
        scale = inverse * factor
        ctx.save_for_backward(x, weight, factor, mean, spread, center, inverse)
        return _add_to_rows(x @ (scale[:, None] * weight).t(), -center * scale)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor, mean, spread, center, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated, too
            return _by_autograd(x, weight, factor, slope)
        scale = (inverse * factor)[:, None]
        product = slope.t() @ x
        total = slope.sum(dim=0)
        # Sum over the pixels of the slope times the normalised p: the gradient of the factor.
        of_factor = inverse * ((product * weight).sum(dim=1) - center * total)
        pull = of_factor * inverse
        of_weight = scale * (product - torch.outer(total, mean) - pull[:, None] * spread)
        scaled = scale * weight
        shift = (center * pull - total) @ scaled / len(x)
        of_x = _add_to_rows(slope @ scaled, shift)
        of_x.sub_(x @ (weight.t() @ (pull[:, None] * scaled / len(x))))
        return of_x, of_weight, of_factor


def _add_to_rows(matrix: Tensor, row: Tensor) -> Tensor:
    """Add a row to all rows of a matrix, in place: many at a time, since they are short."""
    many = math.gcd(len(matrix), 64)
    matrix.view(-1, many * len(row)).add_(row.repeat(many))
    return matrix


def _by_autograd(x: Tensor, weight: Tensor, factor: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
    """Return the same gradient as a differentiable function of all four."""
    inputs = [
        tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        for tensor in (x, weight, factor)
    ]
    y = F.batch_norm(F.linear(inputs[0], inputs[1]), None, None, inputs[2], training=True)
    return torch.autograd.grad(y, inputs, slope, create_graph=True)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the channels of each pixel: `x` (B, C, H, W), `weight` (C', C, 1, 1)."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def pointwise_batch_norm(x: Tensor, weight: Tensor, factor: Tensor | None) -> Tensor:
    """Convolve the channels of each pixel and normalise each resulting one over the batch.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W), best in the memory format ``channels_last``.
    weight : Tensor
        (C', C, 1, 1).
    factor : Tensor or None
        (C',), multiplied in; None: 1.

    Returns
    -------
    Tensor
        (B, C', H, W).
    """
    pixels = x.permute(0, 2, 3, 1)
    matrix = weight.flatten(1)
    factor = matrix.new_ones(len(matrix)) if factor is None else factor
    rows = pixels.reshape(-1, pixels.shape[3])
    y: Tensor = _PointwiseBatchNorm.apply(rows, matrix, factor)
    return y.view(*pixels.shape[:3], len(matrix)).permute(0, 3, 1, 2)
