"""The baseline ``fednas``: search, derive, start anew and retrain.

He, Annavaram and Avestimehr, "FedNAS: Federated Deep Learning via Neural Architecture Search",
2020, https://arxiv.org/abs/2004.08546:

    search      clients take steps of the alphas and of the weights in turn (MiLeNAS) on the
                whole supernet, mixed by a softmax; the server averages both
    derive      two strongest inputs a node, the strongest operation of each
    retraining  FedAvg of the derived network, from weights drawn anew

Its cost is that of both.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedmetanas.search_space.genotype import Genotype
from fedmetanas.search_space.pruning import strongest_inputs_cut
from fedmetanas.search_space.supernet import initial_weights

from . import wire
from .aggregation import AnyArray
from .fedmetanas import FedMetaNAS, SearchPlan
from .phases import place_in_phase, rounds_of_search


class FedNAS(FedMetaNAS):
    """Search on the whole supernet, then retrain the network found.

    Parameters
    ----------
    plan : SearchPlan
        The search space, the number of rounds and the seed of its generators.
    search_share : float
        How much of all rounds is search, greater than 0 and less than 1.
    support_share : float
        lambda of MiLeNAS, >= 0: the part of the support batch in the gradient of the alphas.
    options
        As those of :class:`FedMetaNAS`.

    Attributes
    ----------
    search_rounds : int
        The rounds after which the network is derived.

    Raises
    ------
    ValueError
        If a share is impossible, or there are fewer than two rounds.
    """

    def __init__(
        self,
        plan: SearchPlan,
        search_share: float = 0.5,
        support_share: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(plan, **options)
        if not support_share >= 0:
            raise ValueError(f"support_share: expected at least 0; found {support_share!r}")
        self.search_rounds = rounds_of_search(search_share, plan.rounds)
        self.support_share = float(support_share)

    def round_config(self, server_round: int) -> dict[str, Any]:
        """Return what every node is told: each phase has step sizes that fall from the start."""
        both = {
            **wire.round_config(1.0, self.mask),
            **place_in_phase(server_round, self.search_rounds, self.plan.rounds),
            "relaxation": "softmax",
        }
        if server_round <= self.search_rounds:
            own = {"learner": "milenas", "support-share": self.support_share}
            return {**both, "phase": "search", **own}
        return {**both, "phase": "training", "learner": "sgd"}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Derive the network when the search is over; send as :class:`FedMetaNAS` does."""
        if server_round == self.search_rounds + 1:
            self._start_anew(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def prune(self, server_round: int, arrays: dict[str, AnyArray]) -> None:
        """Do nothing: all is kept until the network is derived."""

    def _start_anew(self, arrays: ArrayRecord) -> None:
        """Decide the mask by the alphas; put newly drawn weights of its network beside them."""
        _, alphas = wire.from_arrays(wire.from_record(arrays))
        self.mask = strongest_inputs_cut(alphas, self.plan.shape.topology)
        network = Genotype.from_mask(self.plan.shape, self.mask).network()
        weights = initial_weights(network, self.plan.generator("retraining"))
        anew = wire.to_record(wire.to_arrays(weights, alphas))
        arrays.clear()
        arrays.update(anew)
