"""Candidate operations of an edge.

The seven (with ``none``, eight) operations of DARTS: Liu, Simonyan and Yang, "DARTS: Differentiable
Architecture Search", 2019, https://arxiv.org/abs/1806.09055, section 3.1.

A new operation is one function from ``(channels, stride, norm)`` to a module, registered by name.
The command line reads settings without importing this file: add the name to ``names.py``, too.

>>> from fedmetanas.search_space.modules import RELU, conv, make_norm
>>> @register("conv_3x3")
... def conv_3x3(channels, stride, norm):
...     return nn.Sequential(RELU, conv(channels, channels, 3, stride), make_norm(channels, norm))

Four things a cell then does by itself. Where the first of an ``nn.Sequential`` is ``RELU``, it is
computed once for all operations on a state. Where the next sees some pixels alone, as
:class:`~fedmetanas.search_space.kernels.subsampling.Subsampling` does, these are cut out once.
Where the last is :class:`~fedmetanas.search_space.modules.Scalable`, as norms are, the operation's
coefficient is multiplied in there. A module without parameters that is one object on all edges (see
:func:`functools.cache`) is computed once for all that start from a state.
"""

from collections.abc import Callable
from functools import cache

from torch import nn

from .modules import IDENTITY, AveragePool, FactorizedReduce, SeparableConv, Zero, make_norm
from .names import OPERATION_NAMES

OperationFactory = Callable[[int, int, str], nn.Module]

OPERATIONS: dict[str, OperationFactory] = {}


def register(name: str) -> Callable[[OperationFactory], OperationFactory]:
    """Register an operation under a name that settings and genotypes can use.

    Parameters
    ----------
    name : str
        A Python identifier that is not taken, not by PyTorch's modules either; it becomes part of
        the names of the weights.

    Raises
    ------
    ValueError
        If the name is taken or is not an identifier.
    """
    if not name.isidentifier() or name in OPERATIONS or hasattr(nn.ModuleDict, name):
        raise ValueError(f"operation name {name!r} is taken or not an identifier")

    def add(factory: OperationFactory) -> OperationFactory:
        OPERATIONS[name] = factory
        if name not in OPERATION_NAMES:
            OPERATION_NAMES.append(name)
        return factory

    return add


@register("max_pool_3x3")
@cache
def max_pool_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Greatest of 3x3, normalised."""
    return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), make_norm(channels, norm))


@register("avg_pool_3x3")
@cache
def avg_pool_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Mean of 3x3, borders not counted in, normalised."""
    return nn.Sequential(AveragePool(stride), make_norm(channels, norm))


@register("skip_connect")
def skip_connect(channels: int, stride: int, norm: str) -> nn.Module:
    """Identity, or a factorized reduction where the size is halved."""
    return IDENTITY if stride == 1 else FactorizedReduce(channels, channels, norm)


@register("sep_conv_3x3")
def sep_conv_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 3x3, twice."""
    return SeparableConv(channels, 3, stride, norm, times=2)


@register("sep_conv_5x5")
def sep_conv_5x5(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 5x5, twice."""
    return SeparableConv(channels, 5, stride, norm, times=2)


@register("dil_conv_3x3")
def dil_conv_3x3(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 3x3 with dilation 2."""
    return SeparableConv(channels, 3, stride, norm, dilation=2)


@register("dil_conv_5x5")
def dil_conv_5x5(channels: int, stride: int, norm: str) -> nn.Module:
    """Depthwise separable convolution 5x5 with dilation 2."""
    return SeparableConv(channels, 5, stride, norm, dilation=2)


@register("none")
@cache
def none(channels: int, stride: int, norm: str) -> nn.Module:
    """No connection."""
    return Zero(stride)


@cache
def has_weights(name: str) -> bool:
    """Return whether an operation that keeps the size has weights: convolutions do."""
    return any(True for _ in OPERATIONS[name](8, 1, "batch").parameters())
