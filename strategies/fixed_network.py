"""What the strategies of a decided architecture have in common: nothing is searched or pruned."""

from typing import Any

from fedmetanas.search_space.alphas import Mask

from .aggregation import AnyArray
from .fedmetanas import FedMetaNAS, SearchPlan


class FixedNetwork(FedMetaNAS):
    """Train one network out of the search space; only its weights are ever sent.

    Parameters
    ----------
    plan : SearchPlan
        The search space.
    mask : Mask
        The network, as a one-hot mask.
    options
        As those of :class:`FedMetaNAS`.

    Attributes
    ----------
    learner : str
        What its clients do, see :mod:`fedmetanas.strategies.wire`.
    """

    learner = "meta"

    def __init__(self, plan: SearchPlan, mask: Mask, **options: Any) -> None:
        super().__init__(plan, **options)
        self.mask = mask

    def round_config(self, server_round: int) -> dict[str, Any]:
        """Return what every node is told."""
        own = {"phase": "training", "learner": self.learner}
        return {**super().round_config(server_round), **own}

    def prune(self, server_round: int, arrays: dict[str, AnyArray]) -> None:
        """Do nothing: all is decided."""
