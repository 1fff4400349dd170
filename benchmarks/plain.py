"""The supernet written in the most obvious way: operation by operation, edge by edge.

The same mathematics as :mod:`fedmetanas.search_space.supernet` without any of its economies: every
operation of every edge on its own, PyTorch's own gradients and memory layout, a multiplication for
each coefficient. It is what the fast one is tested and timed against, and its shortest description.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmetanas.search_space.relaxation import Coefficients
from fedmetanas.search_space.supernet import NetworkShape, Weights


def plain_logits(
    shape: NetworkShape, weights: Weights, coefficients: Coefficients, images: Tensor
) -> Tensor:
    """Compute the logits (B, classes) of the supernet; all operations run, also those of weight 0.

    Parameters
    ----------
    shape : NetworkShape
        The supernet's shape; its operations must be those of DARTS.
    weights : dict of str to Tensor
        All weights of the supernet.
    coefficients : dict of str to Tensor
        For each cell type (E, O).
    images : Tensor
        (B, in_channels, H, W).
    """
    before = last = _norm(F.conv2d(images, weights["stem.0.weight"], padding=1), shape.norm)
    halve_first = False
    for number, cell_type in enumerate(shape.cell_types()):
        prefix = f"cells.{number}."
        own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
        first = _reduce if halve_first else _pointwise
        states = [first(before, own, "first.", shape), _pointwise(last, own, "second.", shape)]
        for edges in shape.topology.node_edges:
            total = torch.zeros(())
            for edge in edges:
                predecessor = shape.topology.edges[edge][1]
                stride = 2 if cell_type == "reduce" and predecessor < 2 else 1
                for column, name in enumerate(shape.topology.operations):
                    there = f"edges.{edge}.{name}."
                    term = _operation(name, states[predecessor], own, there, stride, shape)
                    total = total + coefficients[cell_type][edge, column] * term
            states.append(total)
        before, last = last, torch.cat(states[2:], dim=1)
        halve_first = cell_type == "reduce"
    pooled = F.relu(last).mean(dim=(2, 3))
    return F.linear(pooled, weights["classifier.weight"], weights["classifier.bias"])


def _operation(
    name: str, x: Tensor, weights: Weights, there: str, stride: int, shape: NetworkShape
) -> Tensor:
    """Compute one operation of DARTS."""
    norm = shape.norm
    if name == "none":
        return torch.zeros_like(x[:, :, ::stride, ::stride])
    if name == "skip_connect":
        return x if stride == 1 else _reduce(x, weights, there, shape)
    if name == "max_pool_3x3":
        return _norm(F.max_pool2d(x, 3, stride, padding=1), norm)
    if name == "avg_pool_3x3":
        pooled = F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)
        return _norm(pooled, norm)
    size, dilation = int(name[-1]), 2 if name.startswith("dil") else 1
    for position in (1, 4) if name.startswith("sep") else (1,):
        depthwise = weights[f"{there}{position}.weight"]
        pointwise = weights[f"{there}{position + 1}.weight"]
        padding = dilation * (size // 2)
        x = F.conv2d(F.relu(x), depthwise, None, stride, padding, dilation, groups=x.shape[1])
        x = _norm(F.conv2d(x, pointwise), norm)
        stride = 1
    return x


def _pointwise(x: Tensor, weights: Weights, there: str, shape: NetworkShape) -> Tensor:
    return _norm(F.conv2d(F.relu(x), weights[f"{there}1.weight"]), shape.norm)


def _reduce(x: Tensor, weights: Weights, there: str, shape: NetworkShape) -> Tensor:
    """Halve the size by two pointwise convolutions side by side, the second shifted by a pixel."""
    x = F.relu(x)
    even = F.conv2d(x, weights[f"{there}1.even.weight"], stride=2)
    shifted = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
    odd = F.conv2d(shifted, weights[f"{there}1.odd.weight"], stride=2)
    return _norm(torch.cat([even, odd], dim=1), shape.norm)


def _norm(x: Tensor, norm: str) -> Tensor:
    if norm == "batch":
        return F.batch_norm(x, None, None, training=True)
    return F.group_norm(x, math.gcd(x.shape[1], max(1, x.shape[1] // 4)))
