"""The supernet: a network of cells in which every edge mixes all its living operations.

Liu, Simonyan and Yang, "DARTS", 2019, https://arxiv.org/abs/1806.09055, section 2.1, with input
pairs after Elsken et al., 2020, https://arxiv.org/abs/1911.11090:

    x_j = sum_i u_ij sum_o z_o o(x_i)

The module holds no state: it is built on PyTorch's meta device and called with weights from outside
(``torch.func.functional_call``). The network that a search ends with is the same class, built with
the operations of a genotype alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmetanas.search_space.execution.bundles import bundle, is_small, kind
from fedmetanas.search_space.execution.wide import is_on_gpu, wide
from fedmetanas.search_space.kernels.pointwise import Product
from fedmetanas.search_space.kernels.subsampling import Subsampling
from fedmetanas.search_space.kernels.sums import Scaled, Sum, spread

from .alphas import Mask, Topology
from .operations import (
    OPERATIONS,
    RELU,
    FactorizedReduce,
    PointwiseConvNorm,
    ReLUConvNorm,
    Scalable,
    SeparableConv,
    conv,
    make_norm,
)
from .relaxation import Coefficients

#: Names and values of the weights of a network.
Weights = dict[str, Tensor]

#: An edge of a cell and the name of an operation on it.
Place = tuple[int, str]

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
        Normalisation, see :func:`fedmetanas.search_space.operations.make_norm`.
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
            state.register_hook(_channels_last)  # type: ignore[no-untyped-call]
        self.known: dict[tuple[nn.Module, ...], Any] = {(): state}

    def through(self, *modules: nn.Module) -> Any:
        """Return what modules without parameters, one after the other, make of the state."""
        if modules not in self.known:
            self.known[modules] = modules[-1](self.through(*modules[:-1]))
        return self.known[modules]


def _channels_last(x: Tensor) -> Tensor:
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

        What a sum can compute better for all its terms at once is left to it: see :class:`Sum`.
        """
        x = source.through(*self.shared)
        for module in self.own:
            x = module(x)
        if isinstance(self.last, PointwiseConvNorm):
            return self.last(x, factor, deferred=True)  # type: ignore[no-any-return]
        if self.last is not None:
            return self.last(x, factor)  # type: ignore[no-any-return]
        return x if factor is None else Scaled(x, factor)


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
        for edge, names in alive.items():
            predecessor = self.topology.edges[edge][1]
            stride = 2 if cell_type == "reduce" and predecessor < 2 else 1
            self.edges[str(edge)] = nn.ModuleDict(
                {name: OPERATIONS[name](channels, stride, shape.norm) for name in names}
            )
        self.inputs = Step(self.first), Step(self.second)
        self.steps: dict[Place, Step] = {}
        self.separable: dict[Place, SeparableConv] = {}
        for edge in alive:
            for name, operation in self.edges[str(edge)].items():  # type: ignore[operator]
                self.steps[edge, name] = Step(operation)
                if type(operation) is SeparableConv:  # a subclass may compute something else
                    self.separable[edge, name] = operation

    def forward(
        self,
        before: Source,
        last: Source,
        alive: Mapping[int, tuple[str, ...]],
        coefficients: Tensor | None,
    ) -> Tensor:
        """Compute the output (B, N * channels, H', W') from those of the two cells before."""
        first, second = self.inputs
        sums = [Sum() for _ in self.topology.leaving]
        sums[0].add(first(before, None))
        sums[1].add(second(last, None))
        factors = self._factors(coefficients)
        states = []
        for number, edges in enumerate(self.topology.leaving):
            source = Source(sums[number].result())
            states.append(source.state)
            places = [(edge, name) for edge in edges for name in alive.get(edge, ())]
            convs = sorted(self.separable.keys() & places, key=self._kind)
            if convs and is_small(source.state):
                together = [p for p in places if p in self.separable or self.steps[p].is_shared]
                places = [place for place in places if place not in together]
                for end, total in self._bundle(source, together, coefficients):
                    sums[end].add(total)
            elif convs and is_on_gpu(source.state):
                places = [place for place in places if place not in convs]
                for place, term in self._widened(source, convs, factors):
                    sums[self._end(place)].add(term)
            for shared, alike in self._alike(places):
                scales = [factor for factor in map(factors, alike) if factor is not None]
                if scales:
                    places = [place for place in places if place not in alike]
                    ends = [sums[self._end(place)] for place in alike]
                    spread(source.through(*shared), scales, ends)
            for place in places:
                sums[self._end(place)].add(self.steps[place](source, factors(place)))
        return torch.cat(states[2:], dim=1)

    def _end(self, place: Place) -> int:
        """Return the number of the state to which an edge leads."""
        return 2 + self.topology.edges[place[0]][0]

    def _alike(self, places: list[Place]) -> list[tuple[tuple[nn.Module, ...], list[Place]]]:
        """Return the operations that nothing but factors tells apart, each with where it is."""
        found: dict[tuple[nn.Module, ...], list[Place]] = {}
        for place in places:
            if self.steps[place].is_shared:
                found.setdefault(self.steps[place].shared, []).append(place)
        return list(found.items())

    def _kind(self, place: Place) -> tuple[tuple[int, int, int], Place]:
        """Return by what the separable convolutions are sorted."""
        return kind(self.separable[place]), place

    def _widened(
        self, source: Source, places: list[Place], factors: Callable[[Place], Tensor | None]
    ) -> Iterator[tuple[Place, Tensor]]:
        """Compute separable convolutions of a state, sorted, those of each kind at once."""
        x = source.through(RELU)
        for _, group in groupby(places, key=lambda place: self._kind(place)[0]):
            own = list(group)
            scales = [factor for factor in map(factors, own) if factor is not None]
            results = wide(x, [self.separable[place] for place in own], scales or None)
            yield from zip(own, results, strict=True)

    def _bundle(
        self, source: Source, places: list[Place], coefficients: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute many operations on a state; yield for each state they lead to their sum."""
        convs = sorted(self.separable.keys() & places, key=self._kind)
        others = [place for place in places if place not in self.separable]
        shared = list(dict.fromkeys(self.steps[place].shared for place in others))
        of_others = [len(convs) + shared.index(self.steps[place].shared) for place in others]
        places = convs + others
        ends = sorted({self._end(place) for place in places})
        weights = source.state.new_zeros(len(ends), len(convs) + len(shared))
        if coefficients is None:
            values = weights.new_ones(())
        else:
            edges = torch.tensor([edge for edge, _ in places])
            values = coefficients[edges, torch.tensor([self.columns[name] for _, name in places])]
        rows = torch.tensor([ends.index(self._end(place)) for place in places])
        columns = torch.tensor([*range(len(convs)), *of_others])
        totals = bundle(
            source.through(RELU),
            [self.separable[place] for place in convs],
            [source.through(*modules) for modules in shared],
            weights.index_put((rows, columns), values, accumulate=True),
        )
        yield from zip(ends, totals.unbind(), strict=True)

    def _factors(self, coefficients: Tensor | None) -> Callable[[Place], Tensor | None]:
        """Return a function to the factors (C,) of an operation on an edge."""
        if coefficients is None:
            return lambda place: None
        size = (*coefficients.shape, self.channels)
        rows = [row.unbind() for row in coefficients[..., None].expand(size).contiguous().unbind()]
        return lambda place: rows[place[0]][self.columns[place[1]]]


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
        before = last = Source(normalise(_channels_last(convolve(images))))
        for cell in self.cells:
            cell_type: str = cell.cell_type  # type: ignore[assignment]
            own = None if coefficients is None else coefficients[cell_type]
            before, last = last, Source(cell(before, last, alive[cell_type], own))
        return self.classifier(last.through(RELU).mean(dim=(2, 3)))  # type: ignore[no-any-return]


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
