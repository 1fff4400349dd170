"""The baseline ``perfedavg``: the fixed network of ``fedavg``, trained to adapt quickly.

Fallah, Mokhtari and Ozdaglar, "Personalized Federated Learning: A Meta-Learning Approach", 2020,
https://arxiv.org/abs/2002.07948, algorithm 1. Clients run FedMetaNAS's two learners; where nothing
is left to choose these are MAML on the weights.
"""

from typing import Any

from .fedavg import fixed_mask
from .fedmetanas import SearchPlan
from .fixed_network import FixedNetwork


class PerFedAvg(FixedNetwork):
    """Train a network that was chosen beforehand by Per-FedAvg.

    Parameters
    ----------
    plan, normal, reduce, options
        As those of :class:`fedmetanas.strategies.fedavg.FedAvgNetwork`.
    """

    def __init__(
        self, plan: SearchPlan, normal: Any = None, reduce: Any = None, **options: Any
    ) -> None:
        super().__init__(plan, fixed_mask(plan, normal, reduce), **options)
