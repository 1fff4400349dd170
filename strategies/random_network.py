"""The baseline ``random``: an architecture drawn at random from the search space, then FedAvg.

How good is the search space itself? Li and Talwalkar, "Random Search and Reproducibility for Neural
Architecture Search", 2019, https://arxiv.org/abs/1902.07638, ask this of every search.
"""

from typing import Any

import torch

from fedmetanas.search_space.alphas import CELL_TYPES, Mask, Topology
from fedmetanas.search_space.complexity import count_alive_parameters
from fedmetanas.search_space.pruning import are_real

from .fedmetanas import SearchPlan
from .fixed_network import FixedNetwork

ATTEMPTS = 1000  # draws that look for a number of parameters
TOLERANCE = 0.25  # of that number, up and down


class RandomNetwork(FixedNetwork):
    """Train a network drawn at random by FedAvg.

    Parameters
    ----------
    plan : SearchPlan
        The search space, and the seed of its generators.
    draw : int
        Which of the seed's networks, >= 0.
    parameters : int, optional
        Draw until the network has about so many parameters, up to a quarter more or fewer.
    options
        As those of :class:`fedmetanas.strategies.fedmetanas.FedMetaNAS`.

    Raises
    ------
    ValueError
        If `draw` is negative, or no network of that size was found.
    """

    learner = "sgd"

    def __init__(
        self, plan: SearchPlan, draw: int = 0, parameters: int | None = None, **options: Any
    ) -> None:
        if not isinstance(draw, int) or draw < 0:
            raise ValueError(f"draw: expected a whole number, at least 0; found {draw!r}")
        super().__init__(plan, _drawn(plan, draw, parameters), **options)


def _drawn(plan: SearchPlan, draw: int, parameters: int | None) -> Mask:
    """Draw until the size is right."""
    generator = plan.generator(f"random network {draw}")
    if parameters is None:
        return random_mask(plan.shape.topology, generator)
    sizes = []
    for _ in range(ATTEMPTS):
        mask = random_mask(plan.shape.topology, generator)
        sizes.append(count_alive_parameters(plan.shape, mask))
        if abs(sizes[-1] - parameters) <= TOLERANCE * parameters:
            return mask
    raise ValueError(
        f"parameters: of {ATTEMPTS} networks drawn none has about {parameters}; "
        f"they have from {min(sizes)} to {max(sizes)}"
    )


def random_mask(topology: Topology, generator: torch.Generator) -> Mask:
    """Draw for every node two inputs, and for each an operation, all but none alike probable."""
    operations = are_real(topology).nonzero().flatten()
    mask = {name: torch.zeros_like(tensor) for name, tensor in Mask.full(topology).items()}
    for cell_type in CELL_TYPES:
        for own in topology.node_pairs:
            pair = own[_number(len(own), generator)]
            mask[f"input_{cell_type}"][pair] = True
            for edge in topology.pairs[pair]:
                operation = operations[_number(len(operations), generator)]
                mask[f"op_{cell_type}"][edge, operation] = True
    return Mask(**mask)


def _number(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
