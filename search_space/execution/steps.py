"""A state and an operation on it, taken apart: what terms share, and what is a term's own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedmetanas.search_space.kernels.pointwise import Product
from fedmetanas.search_space.kernels.subsampling import Subsampling
from fedmetanas.search_space.kernels.sums import Scaled
from fedmetanas.search_space.modules import RELU, PointwiseConvNorm, Scalable


class Source:
    """A state of the network and what operations on it have in common, computed once.

    Parameters
    ----------
    state : Tensor
        (B, C, H, W).
    """

    def __init__(self, state: Tensor) -> None:
        self.state = state
        if state.requires_grad:
            # What comes back from a concatenation are slices, slow to compute with.
            state.register_hook(channels_last)  # type: ignore[no-untyped-call]
        self.known: dict[tuple[nn.Module, ...], Any] = {(): state}

    def through(self, *modules: nn.Module) -> Any:
        """Return what modules without parameters, one after the other, make of the state."""
        if modules not in self.known:
            self.known[modules] = modules[-1](self.through(*modules[:-1]))
        return self.known[modules]


def channels_last(x: Tensor) -> Tensor:
    """Return a tensor (B, C, H, W) in the layout in which convolutions are fastest on a CPU."""
    return x.contiguous(memory_format=torch.channels_last)


class Step:
    """An operation, taken apart: what is shared, what is its own, and where its factor goes.

    Parameters
    ----------
    operation : nn.Module
        Any module from (B, C, H, W) to the same or half the size.
    """

    def __init__(self, operation: nn.Module) -> None:
        own = list(operation) if isinstance(operation, nn.Sequential) else [operation]
        self.shared: tuple[nn.Module, ...] = ()
        if next(operation.parameters(), None) is None:
            self.shared = (operation,)
            own = []
        elif own[0] is RELU:
            self.shared = (own.pop(0),)
        self.last = own.pop() if own and isinstance(own[-1], Scalable) else None
        self.own: list[Callable[..., Tensor]] = list(own)
        if own and isinstance(own[0], Subsampling):
            self.shared += (own[0].pixels,)
            self.own[0] = partial(own[0], cut=True)

    @property
    def is_shared(self) -> bool:
        """Whether nothing but its factor is the operation's own."""
        return self.last is None and not self.own

    def __call__(self, source: Source, factor: Tensor | None) -> Tensor | Scaled | Product:
        """Apply the operation to a state; `factor` (C,) multiplies the channels of the result.

        What a sum can compute better for all its terms at once is left to it, see
        :class:`fedmetanas.search_space.kernels.sums.Sum`.
        """
        x = source.through(*self.shared)
        for module in self.own:
            x = module(x)
        if isinstance(self.last, PointwiseConvNorm):
            return self.last(x, factor, deferred=True)  # type: ignore[no-any-return]
        if self.last is not None:
            return self.last(x, factor)  # type: ignore[no-any-return]
        return x if factor is None else Scaled(x, factor)
