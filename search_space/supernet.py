"""The supernet: a network of cells in which every edge mixes all its living operations.

Liu, Simonyan and Yang, "DARTS", 2019, https://arxiv.org/abs/1806.09055, section 2.1, with input
pairs after Elsken et al., 2020, https://arxiv.org/abs/1911.11090:

    x_j = sum_i u_ij sum_o z_o o(x_i)

The module holds no state: it is built on PyTorch's meta device and called with weights from outside
(``torch.func.functional_call``). The network that a search ends with is the same class, built with
the operations of a genotype alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmetanas.search_space.execution.steps import Source, Step, channels_last
from fedmetanas.search_space.execution.terms import Factors, Place, Terms
from fedmetanas.search_space.kernels.sums import Sum

from .alphas import Mask, Topology
from .modules import RELU, FactorizedReduce, ReLUConvNorm, conv, make_norm
from .operations import OPERATIONS
from .relaxation import Coefficients

#: Names and values of the weights of a network.
Weights = dict[str, Tensor]

#: For each cell type the edges in use with the names of their operations.
Alive = Mapping[str, Mapping[int, tuple[str, ...]]]

STEM_MULTIPLIER = 3  # channels of the stem over those of the first cell, as in DARTS


@dataclass(frozen=True)
class NetworkShape:
    """Everything about a network but which operations are on its edges.

    Attributes
    ----------
    in_channels, classes : int
        Channels of the images, number of classes.
    channels : int
        C, channels of a node in the first cells; doubled by every reduction cell.
    layers : int
        Number of cells; those at one and at two thirds of the depth are reduction cells.
    topology : Topology
        Nodes and candidate operations of a cell.
    norm : {"batch", "group"}
        Normalisation, see :func:`fedmetanas.search_space.modules.make_norm`.
    """

    in_channels: int
    classes: int
    channels: int
    layers: int
    topology: Topology
    norm: str

    def cell_types(self) -> list[str]:
        """Return the type of every cell."""
        reductions = {self.layers // 3, 2 * self.layers // 3} if self.layers > 1 else set()
        return ["reduce" if i in reductions else "normal" for i in range(self.layers)]


class Cell(nn.Module):
    """A cell: two inputs, nodes that sum their edges, output of all nodes side by side."""

    def __init__(
        self,
        shape: NetworkShape,
        inputs: tuple[int, int],
        channels: int,
        cell_type: str,
        halve_first: bool,
        alive: Mapping[int, tuple[str, ...]],
    ) -> None:
        super().__init__()
        self.topology = shape.topology
        self.columns = {name: column for column, name in enumerate(shape.topology.operations)}
        self.cell_type = cell_type
        self.channels = channels
        self.first: nn.Module = (
            FactorizedReduce(inputs[0], channels, shape.norm)
            if halve_first
            else ReLUConvNorm(inputs[0], channels, shape.norm)
        )
        self.second = ReLUConvNorm(inputs[1], channels, shape.norm)
        self.edges = nn.ModuleDict()
        operations: dict[Place, nn.Module] = {}
        ends: dict[Place, int] = {}
        for edge, names in alive.items():
            node, predecessor = self.topology.edges[edge]
            stride = 2 if cell_type == "reduce" and predecessor < 2 else 1
            own = {name: OPERATIONS[name](channels, stride, shape.norm) for name in names}
            self.edges[str(edge)] = nn.ModuleDict(own)
            operations |= {(edge, name): operation for name, operation in own.items()}
            ends |= {(edge, name): 2 + node for name in names}
        self.inputs = Step(self.first), Step(self.second)
        self.terms = Terms(operations, ends)

    def forward(
        self,
        before: Source,
        last: Source,
        alive: Mapping[int, tuple[str, ...]],
        coefficients: Tensor | None,
    ) -> Tensor:
        """Compute the output (B, N * channels, H', W') from those of the two cells before.

            x_j = sum_i u_ij sum_o z_o o(x_i)

        Once a state is complete, its terms are added to the sums of the nodes behind it:
        :class:`fedmetanas.search_space.execution.terms.Terms` computes them together. The same
        sum term by term is :func:`fedmetanas.benchmarks.plain.plain_logits`.
        """
        factors = Factors(coefficients, self.columns, self.channels)
        sums = [Sum() for _ in self.topology.leaving]
        sums[0].add(self.inputs[0](before, None))
        sums[1].add(self.inputs[1](last, None))
        states = []
        for total, edges in zip(sums, self.topology.leaving, strict=True):
            source = Source(total.result())
            states.append(source.state)
            places = [(edge, name) for edge in edges for name in alive.get(edge, ())]
            self.terms.add(source, places, factors, sums)
        return torch.cat(states[2:], dim=1)


class Network(nn.Module):
    """Stem, cells, global average pooling, linear classifier.

    Parameters
    ----------
    shape : NetworkShape
        Size of the network.
    alive : mapping
        For each cell type the edges with the names of their operations.
    """

    def __init__(self, shape: NetworkShape, alive: Alive) -> None:
        super().__init__()
        self.alive = alive
        width = STEM_MULTIPLIER * shape.channels
        self.stem = nn.Sequential(conv(shape.in_channels, width, 3), make_norm(width, shape.norm))
        self.cells = nn.ModuleList()
        channels, inputs, halve_first = shape.channels, (width, width), False
        for cell_type in shape.cell_types():
            channels *= 2 if cell_type == "reduce" else 1
            cell = Cell(shape, inputs, channels, cell_type, halve_first, alive[cell_type])
            self.cells.append(cell)
            halve_first = cell_type == "reduce"
            inputs = (inputs[1], shape.topology.nodes * channels)
        self.classifier = nn.Linear(inputs[1], shape.classes)

    def forward(
        self,
        images: Tensor,
        coefficients: Coefficients | None = None,
        alive: Alive | None = None,
    ) -> Tensor:
        """Compute logits (B, classes) of images (B, in_channels, H, W).

        Parameters
        ----------
        images : Tensor
            At least 8x8.
        coefficients : dict of str to Tensor, optional
            u_ij z_o for each cell type, (E, O); None: plain sums, as in a derived network.
        alive : mapping, optional
            What to compute, all by default; nothing else is touched.
        """
        alive = self.alive if alive is None else alive
        convolve, normalise = self.stem
        before = last = Source(normalise(channels_last(convolve(images))))
        for cell in self.cells:
            cell_type: str = cell.cell_type  # type: ignore[assignment]
            own = None if coefficients is None else coefficients[cell_type]
            before, last = last, Source(cell(before, last, alive[cell_type], own))
        return self.classifier(last.through(RELU).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def one_by_one(self) -> Self:
        """Call each operation by itself from now on, so that hooks see it; return the network."""
        for cell in self.cells:
            cell.terms.together = False  # type: ignore[union-attr]
        return self


def build_supernet(shape: NetworkShape) -> Network:
    """Build the network with all operations on all edges, without weights; see :func:`call`."""
    alive = Mask.full(shape.topology).alive(shape.topology)
    with torch.device("meta"):
        return Network(shape, alive)


def call(
    network: Network,
    weights: Weights,
    images: Tensor,
    coefficients: Coefficients | None = None,
    alive: Alive | None = None,
) -> Tensor:
    """Call a network as a pure function of its weights; see :meth:`Network.forward`."""
    arguments = (images, coefficients, alive)
    # No two weights are one: looking for such would take longer than a small layer.
    logits: Tensor = functional_call(network, weights, arguments, tie_weights=False)
    return logits


def initial_weights(network: Network, generator: torch.Generator) -> Weights:
    """Draw weights: He normal for convolutions (fan in), uniform for the classifier, zero bias.

    He et al., "Delving Deep into Rectifiers", 2015, https://arxiv.org/abs/1502.01852.
    """
    weights = {}
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            weights[name] = torch.zeros(parameter.shape)
        else:
            fan_in = math.prod(parameter.shape[1:])
            gain = 2.0 if parameter.dim() == 4 else 1.0 / 3.0
            deviation = math.sqrt(gain / fan_in)
            weights[name] = deviation * torch.randn(parameter.shape, generator=generator)
    return weights


def alive_names(shape: NetworkShape, names: list[str], alive: Alive) -> list[str]:
    """Return those of the weights' names that what is alive needs, in their order."""
    types = shape.cell_types()

    def lives(name: str) -> bool:
        parts = name.split(".")
        if parts[0] != "cells" or parts[2] != "edges":
            return True
        return parts[4] in alive[types[int(parts[1])]].get(int(parts[3]), ())

    return [name for name in names if lives(name)]
