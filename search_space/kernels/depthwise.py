"""A depthwise convolution with fast gradients on a CPU.

PyTorch's backward of a depthwise convolution takes 10 to 30 times its forward on a CPU where
arithmetic says 2. For y = conv(x, w) with padding that keeps the size:

- dL/dx is at stride 1 a forward convolution, conv(dL/dy, w flipped), else a transposed one.
- dL/dw is fast without dilation and for kernels of at most 3 columns, whatever their rows. Of the
  five columns of a 5x5 kernel every second one is such a kernel where two pixels side by side are
  one of twice the channels, a view. Other kernels, and those on images of odd width, are one of 3
  columns beside another, on an image moved by 3 pixels; a dilated one is one without dilation on
  each of the coarser images that every so manieth pixel makes.
- Where these are smaller than the kernel, dL/dw is conv(x, dL/dy as one kernel for each image
  and channel), stride and dilation exchanged, summed over the batch.

Where stride and dilation are equal, only every so manieth pixel is seen: the convolution is one of
these alone, with neither.

All gradients are differentiable again, as second-order MAML asks. On a GPU the gradients of its
libraries are fast, on large images in the layout channels last and without dilation: there, too, a
dilated convolution is one of the coarser images.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from .subsampling import Every, Subsampling, every, subsample

SMALL = 2**16  # numbers in an image for which more calls cost more than they spare
SMALL_PLANE = 64  # pixels, up to which a GPU is faster without channels last
COLUMNS = 3  # of a kernel, for which the convolution library is fast


class _Depthwise(torch.autograd.Function):
    """The convolution with its two gradients; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        padding = dilation * (weight.shape[-1] - 1) // 2
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, dilation = ctx.stride, ctx.dilation
        of_x, of_weight = ctx.needs_input_grad[:2]
        return (
            _input_gradient(slope, weight, x.shape, stride, dilation) if of_x else None,
            _weight_gradient(slope, x, weight.shape, stride, dilation) if of_weight else None,
            None,
            None,
        )


def _input_gradient(
    slope: Tensor, weight: Tensor, size: torch.Size, stride: int, dilation: int
) -> Tensor:
    if stride == 1:
        return depthwise(slope, weight.flip(2, 3), 1, dilation)
    padding = dilation * (weight.shape[-1] // 2)
    # Where the last row or column of x is between two that the convolution went to, one more.
    more = [(side - 1) % stride for side in size[2:]]
    return F.conv_transpose2d(slope, weight, None, stride, padding, more, len(weight), dilation)


def _weight_gradient(
    slope: Tensor, x: Tensor, shape: torch.Size, stride: int, dilation: int
) -> Tensor:
    size = shape[-1]
    coarse = all(side % dilation == 0 and side // dilation >= size for side in x.shape[2:])
    if not coarse or (dilation > 1 and stride > 1) or x.numel() <= SMALL:
        return _weight_gradient_by_images(slope, x, size, stride, dilation)
    if dilation == 1:
        return _weight_gradient_by_columns(slope, x, size, stride)
    each = _weight_gradient_by_columns(_phases(slope, dilation), _phases(x, dilation), size, 1)
    return each.view(dilation, *shape).sum(dim=0)


def _weight_gradient_by_columns(slope: Tensor, x: Tensor, size: int, stride: int) -> Tensor:
    """Return the gradient without dilation: three columns of the kernels at a time."""
    padding = size // 2
    if size <= COLUMNS:
        return _without_dilation(slope, x, (size, size), (stride, stride), (padding, padding))
    if size == 5 and stride <= 2 and x.shape[3] % 2 == 0:
        return (_five_columns if stride == 1 else _five_columns_by_two)(slope, x)
    parts = []
    for start in range(0, size, COLUMNS):
        width = min(COLUMNS, size - start)
        left = padding - start
        right = (slope.shape[3] - 1) * stride + width - x.shape[3] - left
        seen = F.pad(x, (left, right))
        kernel, by = (size, width), (stride, stride)
        parts.append(_without_dilation(slope, seen, kernel, by, (padding, 0)))
    return torch.cat(parts, dim=3)


def _five_columns(slope: Tensor, x: Tensor) -> Tensor:
    """Return the gradient for 5x5 at stride 1: the columns inside, those at even distances."""
    inside = _without_dilation(slope, x, (5, 3), (1, 1), (2, 1))
    each = _without_dilation(_pairs(slope), _pairs(x), (5, 3), (1, 1), (2, 1))
    even = each.view(2, *inside.shape).sum(dim=0)
    return torch.cat([even[..., :1], inside, even[..., 2:]], dim=3)


def _five_columns_by_two(slope: Tensor, x: Tensor) -> Tensor:
    """Return the gradient for 5x5 at stride 2: the even columns, the odd ones, then nothing."""
    both = torch.cat([slope, slope], dim=1)
    each = _without_dilation(both, _pairs(x), (5, 3), (2, 1), (2, 1))
    columns = each.view(2, -1, 1, 5, 3).permute(1, 2, 3, 4, 0)
    return columns.flatten(3)[..., :5]


def _pairs(x: Tensor) -> Tensor:
    """Return (B, C, H, W) as (B, 2 C, H, W / 2): two pixels side by side as one."""
    count, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(count, height, width // 2, 2 * channels)
    return pixels.permute(0, 3, 1, 2)


def _without_dilation(
    slope: Tensor,
    x: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Return PyTorch's own gradient for kernels of `size`; all pairs are of rows and columns."""
    channels = x.shape[1]
    gradient: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        x, (channels, 1, *size), slope, stride, padding, groups=channels
    )
    return gradient


def _phases(x: Tensor, step: int) -> Tensor:
    """Return the images of every `step`-th pixel: rows make images, columns channels.

    (B, C, H, W) becomes (step B, step C, H / step, W / step), channels last.
    """
    count, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(count, height // step, step, width // step, -1)
    images = rows.transpose(1, 2).reshape(step * count, *rows.shape[1::2], step * channels)
    return images.permute(0, 3, 1, 2)


def _weight_gradient_by_images(
    slope: Tensor, x: Tensor, size: int, stride: int, dilation: int
) -> Tensor:
    """Return the gradient by a convolution with a kernel for each image and channel."""
    count, channels, height, width = x.shape
    # The layout from which the convolution library takes it, channels of all images innermost.
    seen = x.permute(2, 3, 0, 1).reshape(1, height, width, count * channels).permute(0, 3, 1, 2)
    each = F.conv2d(
        seen,
        slope.reshape(count * channels, 1, *slope.shape[2:]),
        padding=dilation * (size // 2),
        stride=dilation,
        dilation=stride,
        groups=count * channels,
    )
    return each[:, :, :size, :size].reshape(count, channels, 1, size, size).sum(dim=0)


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve every channel of `x` (B, C, H, W) with its own kernel.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W).
    weight : Tensor
        (C, 1, k, k) with k odd.
    stride, dilation : int
        At least 1.

    Returns
    -------
    Tensor
        (B, C, ceil(H / stride), ceil(W / stride)).
    """
    weight = _that_see(weight, max(x.shape[2:]), dilation)
    if stride == dilation > 1:
        x = subsample(x, stride)
        stride = dilation = 1
    if x.device.type == "cpu":
        if weight.shape[-1] > 3 or dilation > 1:
            return _Depthwise.apply(x, weight, stride, dilation)  # type: ignore[no-any-return]
        return _convolve(x, weight, stride, dilation)
    return _on_gpu(x, weight, stride, dilation)


def _on_gpu(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve in the layout, and with the dilation, of which the gradients are fast there."""
    if x.shape[2] * x.shape[3] <= SMALL_PLANE:
        y = _convolve(x.contiguous(), weight, stride, dilation)
        return y.contiguous(memory_format=torch.channels_last)
    if stride == 1 < dilation and not any(side % dilation for side in x.shape[2:]):
        return on_coarser_images(x, weight, dilation)
    return _convolve(x, weight, stride, dilation)


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))


def on_coarser_images(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve at stride 1 with dilation, which must divide height and width, by images without.

    The images of every so manieth pixel lie one behind the other in the batch.
    """
    count, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1)
    grid = pixels.reshape(count, height // dilation, dilation, width // dilation, dilation, -1)
    coarse = grid.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)
    result = _convolve(coarse, weight, 1, 1).permute(0, 2, 3, 1)
    grid = result.reshape(dilation, dilation, count, *result.shape[1:3], channels)
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(pixels.shape).permute(0, 3, 1, 2)


def _that_see(weight: Tensor, side: int, dilation: int) -> Tensor:
    """Leave out the margin of kernels that never meets a pixel of an image of this side."""
    margin = weight.shape[-1] // 2 - (side - 1) // dilation
    return weight[:, :, margin:-margin, margin:-margin] if margin > 0 else weight


class DepthwiseConv(Subsampling):
    """Depthwise convolution without bias; the size is kept but for the stride."""

    pixels: Every

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.stride = stride
        self.dilation = dilation
        self.pixels = every(stride if stride == dilation else 1)
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, kernel))

    def forward(self, x: Tensor, cut: bool = False) -> Tensor:
        """Convolve `x` (B, C, H, W), or what is `cut` out of it."""
        step = self.pixels.step if cut else 1
        return depthwise(x, self.weight, self.stride // step, self.dilation // step)
