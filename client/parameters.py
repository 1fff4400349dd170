"""The parameters that clients learn."""

from typing import NamedTuple

from torch import Tensor

from fedmetanas.search_space.alphas import Alphas
from fedmetanas.search_space.supernet import Weights


class Parameters(NamedTuple):
    """What is learnt: theta = (w, a)."""

    weights: Weights
    alphas: Alphas

    def tensors(self) -> list[Tensor]:
        """Return all tensors, those of the weights first, in a fixed order."""
        return [*self.weights.values(), *self.alphas.tensors()]

    def with_tensors(self, tensors: list[Tensor]) -> "Parameters":
        """Return parameters of the same names with other values, in the order of `tensors`."""
        count = len(self.weights)
        weights = dict(zip(self.weights, tensors[:count], strict=True))
        return Parameters(weights, Alphas(*tensors[count:]))


def leaves(theta: Parameters) -> Parameters:
    """Return the same values as leaves that want a gradient."""
    return theta.with_tensors([t.detach().requires_grad_() for t in theta.tensors()])
