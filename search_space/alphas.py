"""The architecture parameters, their shapes and their mask.

Symbols as in the algorithm: N nodes, E edges, O operations, P pairs; alpha is the logits of the
operations, beta those of the input pairs. A cell is a directed acyclic graph: node j (0-based)
has the j + 2 predecessors 0, 1 (the cell's inputs) and 2 .. j + 1 (the nodes before it).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Self

import torch
from torch import Tensor

from fedmetanas.search_space.kernels.transfer import to_device

CELL_TYPES = ("normal", "reduce")


@dataclass(frozen=True)
class Topology:
    """Edges and input pairs of a cell with `nodes` intermediate nodes.

    Attributes
    ----------
    nodes : int
        N, the number of intermediate nodes.
    operations : tuple of str
        Names of the O candidate operations of every edge.

    Examples
    --------
    >>> Topology(2, ("skip_connect",)).edges
    ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    """

    nodes: int
    operations: tuple[str, ...]

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The E edges as (node, predecessor), node by node."""
        return tuple((node, i) for node in range(self.nodes) for i in range(node + 2))

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The P input pairs as two edges of the same node, node by node."""
        return tuple(pair for edges in self.node_edges for pair in combinations(edges, 2))

    @cached_property
    def node_edges(self) -> tuple[tuple[int, ...], ...]:
        """For every node the numbers of its edges."""
        return self._of_nodes([node for node, _ in self.edges])

    @cached_property
    def leaving(self) -> tuple[tuple[int, ...], ...]:
        """For every state, the cell's inputs first, the numbers of the edges that start there."""
        return tuple(
            tuple(k for k, (_, start) in enumerate(self.edges) if start == state)
            for state in range(self.nodes + 2)
        )

    @cached_property
    def node_pairs(self) -> tuple[tuple[int, ...], ...]:
        """For every node the numbers of its pairs."""
        return self._of_nodes([self.edges[first][0] for first, _ in self.pairs])

    @cached_property
    def incidence(self) -> Tensor:
        """Which pair contains which edge: (P, E) of zeros and ones, float64."""
        matrix = torch.zeros(len(self.pairs), len(self.edges), dtype=torch.float64)
        for number, pair in enumerate(self.pairs):
            matrix[number, list(pair)] = 1
        return matrix

    def _of_nodes(self, node_of: list[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(k for k, owner in enumerate(node_of) if owner == node)
            for node in range(self.nodes)
        )


@dataclass(frozen=True)
class PerCell:
    """Four tensors, one of each kind for each cell type.

    Attributes
    ----------
    op_normal, op_reduce : Tensor of shape (E, O)
        One row per edge, one column per operation.
    input_normal, input_reduce : Tensor of shape (P,)
        One entry per input pair.
    """

    op_normal: Tensor
    op_reduce: Tensor
    input_normal: Tensor
    input_reduce: Tensor

    def cell(self, cell_type: str) -> tuple[Tensor, Tensor]:
        """Return the (E, O) and the (P,) tensor of a cell type."""
        if cell_type == "normal":
            return self.op_normal, self.input_normal
        return self.op_reduce, self.input_reduce

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the names and tensors in their fixed order."""
        for name in PER_CELL_NAMES:
            yield name, getattr(self, name)

    def tensors(self) -> list[Tensor]:
        """Return the four tensors in their fixed order."""
        return [tensor for _, tensor in self.items()]

    def to(self, device: torch.device) -> Self:
        """Return the same, of the host, on a device."""
        return type(self)(*(to_device(tensor, device) for tensor in self.tensors()))


PER_CELL_NAMES = ("op_normal", "op_reduce", "input_normal", "input_reduce")


class Alphas(PerCell):
    """Logits alpha of the operations and beta of the input pairs; shared by all cells of a type."""

    @staticmethod
    def equal(topology: Topology) -> "Alphas":
        """Return logits that prefer nothing: all zero."""
        return Alphas(*(torch.zeros(shape) for shape in _shapes(topology)))

    @staticmethod
    def initial(topology: Topology, generator: torch.Generator) -> "Alphas":
        """Return small random logits, normal with standard deviation 0.001 (as DARTS)."""
        shapes = _shapes(topology)
        return Alphas(*(1e-3 * torch.randn(shape, generator=generator) for shape in shapes))


class Noise(PerCell):
    """Gumbel(0, 1) noise of one forward pass."""

    @staticmethod
    def draw(topology: Topology, generator: torch.Generator, dtype: torch.dtype) -> "Noise":
        """Draw noise for every logit: -log(E) with E exponential of rate 1."""

        def gumbel(shape: tuple[int, ...]) -> Tensor:
            return -torch.empty(shape, dtype=dtype).exponential_(generator=generator).log()

        return Noise(*(gumbel(shape) for shape in _shapes(topology)))


class Mask(PerCell):
    """What is still alive: True or False for every operation of an edge and every input pair.

    Invariants, kept by pruning: every node has a living pair; an edge has a living operation if
    and only if a living pair contains it.
    """

    @staticmethod
    def full(topology: Topology) -> "Mask":
        """Return the mask in which everything is alive."""
        return Mask(*(torch.ones(shape, dtype=torch.bool) for shape in _shapes(topology)))

    def alive(self, topology: Topology) -> dict[str, dict[int, tuple[str, ...]]]:
        """Return for each cell type the edges in use with the names of their living operations."""
        return {
            cell_type: {
                edge: tuple(n for n, lives in zip(topology.operations, row, strict=True) if lives)
                for edge, row in enumerate(self.cell(cell_type)[0].tolist())
                if any(row)
            }
            for cell_type in CELL_TYPES
        }

    def is_one_hot(self, topology: Topology) -> bool:
        """Return whether one operation an edge in use and one pair a node are left."""
        edges = sum(len(edges) for edges in self.alive(topology).values())
        return self.counts() == (edges, len(CELL_TYPES) * topology.nodes)

    def counts(self) -> tuple[int, int]:
        """Return how many operations and how many pairs are alive, both cell types together."""
        operations = self.op_normal.sum() + self.op_reduce.sum()
        pairs = self.input_normal.sum() + self.input_reduce.sum()
        return int(operations), int(pairs)


def _shapes(topology: Topology) -> list[tuple[int, ...]]:
    op = (len(topology.edges), len(topology.operations))
    pairs = (len(topology.pairs),)
    return [op, op, pairs, pairs]
