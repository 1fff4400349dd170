"""The baseline ``fedavg``: a fixed network, trained by FedAvg.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
https://arxiv.org/abs/1602.05629. Clients take plain steps of SGD, see
:mod:`fedmetanas.client.sgd_learner`.
"""

from typing import Any

from fedmetanas.search_space.alphas import Mask, Topology
from fedmetanas.search_space.genotype import Genotype, read_cell

from .fedmetanas import SearchPlan
from .fixed_network import FixedNetwork

DEFAULT_OPERATION = "sep_conv_3x3"


class FedAvgNetwork(FixedNetwork):
    """Train a network that was chosen beforehand by FedAvg.

    Parameters
    ----------
    plan : SearchPlan
        The search space.
    normal, reduce : list, optional
        The two cells as in ``genotype.json``: for every node two [operation, predecessor]. By
        default every node takes the two states before it through ``sep_conv_3x3``.
    options
        As those of :class:`fedmetanas.strategies.fedmetanas.FedMetaNAS`.

    Raises
    ------
    ValueError
        If a cell is not one of the search space.
    """

    learner = "sgd"

    def __init__(
        self, plan: SearchPlan, normal: Any = None, reduce: Any = None, **options: Any
    ) -> None:
        super().__init__(plan, fixed_mask(plan, normal, reduce), **options)


def fixed_mask(plan: SearchPlan, normal: Any, reduce: Any) -> Mask:
    """Return the mask of two cells given as plain data; None is the default cell.

    Raises
    ------
    ValueError
        If a cell is not one of the search space.
    """
    topology = plan.shape.topology
    default = default_cell(topology)
    cells = {
        name: read_cell(default if cell is None else cell, name)
        for name, cell in (("normal", normal), ("reduce", reduce))
    }
    for name, cell in cells.items():
        if len(cell) != topology.nodes:
            raise ValueError(f"{name}: expected {topology.nodes} nodes, found {len(cell)}")
    return Genotype(plan.shape, **cells).mask()


def default_cell(topology: Topology) -> list[list[list[Any]]]:
    """Return the cell in which every node takes the two states before it."""
    return [
        [[DEFAULT_OPERATION, node], [DEFAULT_OPERATION, node + 1]] for node in range(topology.nodes)
    ]
