"""The genotype: which operations a searched network has, and the network itself.

A genotype names for every node of the normal and of the reduction cell its two inputs and the
operation on each (Liu, Simonyan and Yang, "DARTS", 2019, section 2.3). It is written as JSON with
the network's shape, so that a file of it and one of weights make a network:

>>> genotype = Genotype.from_json(text)
>>> network = genotype.network()
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedmetanas.errors import GenotypeError

from .alphas import CELL_TYPES, Mask, Topology
from .names import LARGEST
from .operations import OPERATIONS
from .supernet import Network, NetworkShape, Weights

FORMAT = "fedmetanas-genotype-1"

#: Of a supernet that may be searched, and so of a network but for its edges; DARTS' has 2 million.
MOST_WEIGHTS = 100_000_000

#: For every node its two (operation, predecessor).
CellGenotype = tuple[tuple[tuple[str, int], tuple[str, int]], ...]


@dataclass(frozen=True)
class Genotype:
    """The architecture of a network: its shape and for every node two (operation, predecessor)."""

    shape: NetworkShape
    normal: CellGenotype
    reduce: CellGenotype

    @staticmethod
    def from_mask(shape: NetworkShape, mask: Mask) -> "Genotype":
        """Read the genotype off a mask with one pair a node and one operation an edge in use.

        Raises
        ------
        ValueError
            If a node has not exactly two edges in use with one operation each.
        """
        cells = {}
        for cell_type, alive in mask.alive(shape.topology).items():
            nodes = []
            for edges in shape.topology.node_edges:
                choices = [(n, shape.topology.edges[e][1]) for e in edges for n in alive.get(e, ())]
                if len(choices) != 2 or choices[0][1] == choices[1][1]:
                    raise ValueError(
                        f"the mask is not one-hot yet: a {cell_type} node has {choices}"
                    )
                nodes.append((choices[0], choices[1]))
            cells[cell_type] = tuple(nodes)
        return Genotype(shape, cells["normal"], cells["reduce"])

    def mask(self) -> Mask:
        """Return the one-hot mask that :meth:`from_mask` reads this genotype off.

        Raises
        ------
        GenotypeError
            If an operation is not one of the shape's candidates.
        """
        topology = self.shape.topology
        parts = {name: torch.zeros_like(tensor) for name, tensor in Mask.full(topology).items()}
        for cell_type, edges in self.alive().items():
            for edge, (name,) in edges.items():
                if name not in topology.operations:
                    known = ", ".join(topology.operations)
                    raise GenotypeError(f"{name!r} is not among search.operations: {known}")
                parts[f"op_{cell_type}"][edge, topology.operations.index(name)] = True
            for number, pair in enumerate(topology.pairs):
                parts[f"input_{cell_type}"][number] = set(pair) <= edges.keys()
        return Mask(**parts)

    def alive(self) -> dict[str, dict[int, tuple[str, ...]]]:
        """Return for each cell type the edges in use with their operation."""
        number = {edge: k for k, edge in enumerate(self.shape.topology.edges)}
        return {
            cell_type: {
                number[node, predecessor]: (name,)
                for node, choices in enumerate(getattr(self, cell_type))
                for name, predecessor in choices
            }
            for cell_type in CELL_TYPES
        }

    def network(self) -> Network:
        """Build the network with its parameters on the CPU, not initialised; load weights next."""
        return Network(self.shape, self.alive())

    def to_json(self) -> str:
        """Write the genotype as JSON."""
        shape = self.shape
        tree = {
            "format": FORMAT,
            "in_channels": shape.in_channels,
            "classes": shape.classes,
            "channels": shape.channels,
            "layers": shape.layers,
            "norm": shape.norm,
            "normal": self.normal,
            "reduce": self.reduce,
        }
        return json.dumps(tree, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "Genotype":
        """Read a genotype; every value is checked, nothing is evaluated.

        Raises
        ------
        GenotypeError
            If the text is not JSON, or not a genotype of known operations.
        """
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise GenotypeError(f"not valid JSON: {error}") from None
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise GenotypeError(f"expected a JSON object with format {FORMAT!r}")
        for key, most in LARGEST.items():
            if type(tree.get(key)) is not int or not 1 <= tree[key] <= most:
                raise GenotypeError(f"{key}: expected a whole number from 1 to {most}")
        if tree.get("norm") not in ("batch", "group"):
            raise GenotypeError("norm: expected batch or group")
        cells = {cell_type: read_cell(tree.get(cell_type), cell_type) for cell_type in CELL_TYPES}
        if len(cells["normal"]) != len(cells["reduce"]):
            raise GenotypeError("normal and reduce: expected the same number of nodes")
        used = {name for cell in cells.values() for choices in cell for name, _ in choices}
        operations = tuple(name for name in OPERATIONS if name in used)
        topology = Topology(len(cells["normal"]), operations)
        sizes = {key: tree[key] for key in LARGEST}
        shape = NetworkShape(**sizes, topology=topology, norm=tree["norm"])
        _refuse_enormous(shape)
        return Genotype(shape, **cells)


def _refuse_enormous(shape: NetworkShape) -> None:
    """Raise if a network of this shape would fill any memory, whatever its operations."""
    with torch.device("meta"):
        bare = Network(shape, {cell_type: {} for cell_type in CELL_TYPES})
    weights = sum(parameter.numel() for parameter in bare.parameters())
    if weights > MOST_WEIGHTS:
        raise GenotypeError(
            f"channels, layers, classes and nodes: the network would have {weights:,} weights "
            f"without those on edges; expected at most {MOST_WEIGHTS:,}"
        )


def read_cell(nodes: Any, cell_type: str) -> CellGenotype:
    """Check plain data, as of JSON or YAML: for every node two [operation, predecessor].

    Raises
    ------
    GenotypeError
        If it is something else.
    """
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= 100:
        raise GenotypeError(f"{cell_type}: expected a list of 1 to 100 nodes")
    cell = []
    for node, choices in enumerate(nodes):
        where = f"{cell_type}, node {node}"
        if not isinstance(choices, list) or len(choices) != 2:
            raise GenotypeError(f"{where}: expected two [operation, predecessor]")
        for choice in choices:
            if not isinstance(choice, list) or len(choice) != 2:
                raise GenotypeError(f"{where}: expected [operation, predecessor]")
            if not isinstance(choice[0], str) or choice[0] not in OPERATIONS:
                raise GenotypeError(
                    f"{where}: unknown operation {str(choice[0])[:40]!r}; known are "
                    + ", ".join(OPERATIONS)
                )
            if type(choice[1]) is not int or not 0 <= choice[1] < node + 2:
                raise GenotypeError(f"{where}: expected a predecessor from 0 to {node + 1}")
        if choices[0][1] == choices[1][1]:
            raise GenotypeError(f"{where}: expected two different predecessors")
        cell.append(((choices[0][0], choices[0][1]), (choices[1][0], choices[1][1])))
    return tuple(cell)


def load_weights(network: nn.Module, weights: Weights) -> None:
    """Load weights into a network, checking names and shapes.

    Raises
    ------
    GenotypeError
        If a weight is missing, left over, of another shape or not float32.
    """
    wanted: dict[str, Tensor] = dict(network.named_parameters())
    if wrong := sorted(set(wanted) ^ set(weights)):
        raise GenotypeError(f"the weights are not those of this genotype: see {wrong[0][:80]!r}")
    for name, parameter in wanted.items():
        if weights[name].shape != parameter.shape or weights[name].dtype != parameter.dtype:
            raise GenotypeError(f"weight {name!r}: expected {parameter.dtype}, {parameter.shape}")
    network.load_state_dict(weights)
