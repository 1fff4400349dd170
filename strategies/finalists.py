"""FedMetaNAS that ends its search by comparing networks instead of logits.

In few rounds the logits say little: their gradients are of one batch and one draw each. What the
supernet's shared weights can do in a whole network says more: as in Guo et al., "Single Path
One-Shot Neural Architecture Search with Uniform Sampling", 2020, https://arxiv.org/abs/1904.00420,
networks are compared by the loss they have with them. Here

    search      the rounds of FedMetaNAS in which everything is alive; nothing is pruned
    comparison  the server draws finalists with the probabilities that the alphas give them;
                every client measures the loss of each on a query batch, and trains nothing;
                the mask becomes the finalist with the least mean loss
    training    FedMetaNAS, whose mask is decided; the weights are those of the search

The steps of the weights fall to zero within the search, and again within the training: networks
compared with weights that still jump about are ranked by how they jump.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedmetanas.search_space.alphas import Alphas, Mask
from fedmetanas.search_space.complexity import count_alive_parameters
from fedmetanas.search_space.sampling import sample_network

from . import wire
from .aggregation import AnyArray
from .fedmetanas import FedMetaNAS, SearchPlan
from .phases import place_in_phase, rounds_of_search

MOST_FINALISTS = 1000  # no message may make a client compute for ever
DRAWS = 10  # for each finalist, where they are to have a certain size


class Finalists(FedMetaNAS):
    """Search briefly, compare some networks, train the best of them.

    Parameters
    ----------
    plan : SearchPlan
        The search space, the number of rounds and the seed of its generators.
    finalists : int
        How many networks are compared, from 1 to 1000.
    search_share : float
        How much of all rounds is search, greater than 0 and less than 1.
    parameters : int, optional
        About so many parameters a finalist has: of ten times as many networks drawn, those
        nearest to it.
    options
        As those of :class:`FedMetaNAS`.

    Attributes
    ----------
    search_rounds : int
        The rounds after which they are compared.

    Raises
    ------
    ValueError
        If a number is impossible, or there are fewer than two rounds.
    """

    def __init__(
        self,
        plan: SearchPlan,
        finalists: int = 30,
        search_share: float = 0.1,
        parameters: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(plan, **options)
        if not 1 <= finalists <= MOST_FINALISTS:
            raise ValueError(f"finalists: expected from 1 to {MOST_FINALISTS}; found {finalists}")
        if parameters is not None and (type(parameters) is not int or parameters < 1):
            raise ValueError(f"parameters: expected a whole number, at least 1; found {parameters}")
        self.finalists = finalists
        self.search_rounds = rounds_of_search(search_share, plan.rounds)
        self.parameters = parameters

    def round_config(self, server_round: int) -> dict[str, Any]:
        """Return what every node is told: search and training have step sizes that fall."""
        place = place_in_phase(server_round, self.search_rounds, self.plan.rounds)
        return {**super().round_config(server_round), **place}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Compare the finalists when the search is over; send as :class:`FedMetaNAS` does."""
        if server_round == self.search_rounds + 1:
            _, alphas = wire.from_arrays(wire.from_record(arrays))
            masks = self._drawn(alphas)
            self.mask = masks[int(np.argmin(self._losses(server_round, arrays, masks, grid)))]
        return super().configure_train(server_round, arrays, config, grid)

    def prune(self, server_round: int, arrays: dict[str, AnyArray]) -> None:
        """Do nothing: everything is alive until the finalists are compared."""

    def _drawn(self, alphas: Alphas) -> list[Mask]:
        """Draw the finalists, those nearest to the wanted size first."""
        plan = self.plan
        topology, generator = plan.shape.topology, plan.generator("finalists")
        draws = self.finalists * (1 if self.parameters is None else DRAWS)
        masks = [
            sample_network(alphas, topology, generator, plan.weight_free_limit)
            for _ in range(draws)
        ]
        if (wanted := self.parameters) is not None:
            masks.sort(key=lambda mask: abs(count_alive_parameters(plan.shape, mask) - wanted))
        return masks[: self.finalists]

    def _losses(
        self, server_round: int, arrays: ArrayRecord, masks: list[Mask], grid: Grid
    ) -> AnyArray:
        """Ask all nodes for the losses of some networks; return their means, by images."""
        config = {"server-round": server_round, **wire.finalists_config(masks)}
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(config)})
        messages = [Message(content, node, MessageType.QUERY) for node in grid.get_node_ids()]
        replies = [
            next(iter(reply.content.metric_records.values()))
            for reply in grid.send_and_receive(messages)
        ]
        losses = np.array([metrics[wire.LOSSES] for metrics in replies], dtype=np.float64)
        examples = [float(metrics["num-examples"]) for metrics in replies]  # type: ignore[arg-type]
        return np.average(losses, axis=0, weights=examples)
