"""The strategy FedMetaNAS: average weights and alphas, then prune softly.

Huang and Gao, "Federated Neural Architecture Search with Model-Agnostic Meta Learning", 2025,
https://arxiv.org/abs/2504.06457. A round of the server is

    w <- sum n_k w_k / sum n_k                     weights_rule
    a <- sum n_k a_k / sum n_k                     alphas_rule
    mask <- soft_prune(a, mask) at the round's tau
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedmetanas.search_space.alphas import Mask
from fedmetanas.search_space.pruning import soft_prune
from fedmetanas.search_space.relaxation import TemperatureSchedule
from fedmetanas.search_space.supernet import NetworkShape

from . import wire
from .aggregation import RULES, AnyArray, aggregate
from .flower import valid_replies


@dataclass(frozen=True)
class SearchPlan:
    """What a strategy that searches must know of the experiment.

    Attributes
    ----------
    shape : NetworkShape
        The supernet's shape.
    schedule : TemperatureSchedule
        The temperature of every round.
    operation_threshold, pair_threshold, weight_free_limit
        See :func:`fedmetanas.search_space.pruning.soft_prune`.
    warmup_rounds : int
        Nothing is pruned in the first so many rounds.
    rounds : int
        Number of rounds in all.
    generator : callable
        Returns a generator of random numbers for a purpose, always the same in a run.
    """

    shape: NetworkShape
    schedule: TemperatureSchedule
    operation_threshold: float
    pair_threshold: float
    weight_free_limit: int | None
    warmup_rounds: int
    rounds: int
    generator: Callable[[str], torch.Generator]


class FedMetaNAS(FedAvg):
    """Average the clients' weights and alphas, prune, send what is alive.

    It trains on every node of the grid it is given; who takes part is the round loop's choice.

    Parameters
    ----------
    plan : SearchPlan
        Schedules and thresholds of the search.
    weights_rule, alphas_rule : {"weighted-mean", "mean", "median"}
        How arrays are aggregated, see :mod:`fedmetanas.strategies.aggregation`.

    Attributes
    ----------
    mask : Mask
        What is alive after the rounds so far.

    Raises
    ------
    ValueError
        If a rule is unknown.
    """

    def __init__(
        self,
        plan: SearchPlan,
        weights_rule: str = "weighted-mean",
        alphas_rule: str = "weighted-mean",
    ) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        for key, rule in (("weights_rule", weights_rule), ("alphas_rule", alphas_rule)):
            if rule not in RULES:
                raise ValueError(f"{key}: expected one of {', '.join(RULES)}; found {rule!r}")
        self.plan = plan
        self.weights_rule = RULES[weights_rule]
        self.alphas_rule = RULES[alphas_rule]
        self.mask = Mask.full(plan.shape.topology)
        self.kept: dict[str, AnyArray] = {}  # arrays of this round that were not sent

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every node what is alive, and the settings of the round.

        Once the mask is one-hot the alphas do nothing and do not change: they stay here. What is
        not sent is also taken out of `arrays`: a wrapper that compares replies with the record it
        was given then compares like with like.
        """
        config.update(self.round_config(server_round))
        sent, self.kept = self._alive(arrays), {}
        if self.mask.is_one_hot(self.plan.shape.topology):
            sent, alphas = wire.split(sent)
            self.kept = wire.from_record(wire.select(arrays, alphas))
        for key in arrays.keys() - set(sent):
            del arrays[key]
        return super().configure_train(server_round, arrays, config, grid)

    def round_config(self, server_round: int) -> dict[str, Any]:
        """Return what every node is told; also used to evaluate.

        See :mod:`fedmetanas.strategies.wire`.

        Parameters
        ----------
        server_round : int
            From 1. The mask is that of the moment.
        """
        return wire.round_config(self.plan.schedule(server_round), self.mask)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate weights and alphas by their rules, prune, and drop what died.

        The replies are taken in the order given, which decides the last bit of a sum.
        """
        valid = valid_replies(self, replies)
        if not valid:
            return None, None
        contents = [reply.content for reply in valid]
        records = [next(iter(content.array_records.values())) for content in contents]
        metrics = [next(iter(content.metric_records.values())) for content in contents]
        examples = [float(record[self.weighted_by_key]) for record in metrics]  # type: ignore[arg-type]
        weights, alphas = wire.split(records[0])
        arrays: dict[str, AnyArray] = {}
        for rule, keys in ((self.weights_rule, weights), (self.alphas_rule, alphas)):
            if keys:
                like = wire.from_record(wire.select(records[0], keys))
                numbers = map(partial(wire.all_numbers, keys=keys), records)
                arrays |= aggregate(rule, like, numbers, examples)
        arrays |= self.kept
        self.prune(server_round, arrays)
        return wire.to_record(arrays), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def prune(self, server_round: int, arrays: dict[str, AnyArray]) -> None:
        """Update the mask from the averaged alphas and delete the arrays of what died.

        Parameters
        ----------
        server_round : int
            From 1.
        arrays : dict of str to array
            The aggregated arrays by key; changed in place.
        """
        plan = self.plan
        if server_round <= plan.warmup_rounds:
            return
        _, alphas = wire.from_arrays(arrays)
        self.mask = soft_prune(
            alphas,
            self.mask,
            plan.shape.topology,
            plan.schedule(server_round),
            plan.operation_threshold,
            plan.pair_threshold,
            plan.weight_free_limit,
        )
        for key in arrays.keys() - set(self._alive(arrays)):
            del arrays[key]

    def _alive(self, keys: Iterable[str]) -> list[str]:
        """Return the keys of the alphas and of weights that are alive, in their order."""
        return wire.alive_keys(keys, self.plan.shape, self.mask)
