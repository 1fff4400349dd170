"""What is known of a round and of a whole search, and who is told: hooks beside the algorithm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord

from fedmetanas.search_space.genotype import Genotype
from fedmetanas.search_space.supernet import Weights

from .evaluation import ClientAccuracy
from .replies import LeftOut


@dataclass(frozen=True)
class RoundResult:
    """What a round was: one line of ``metrics.jsonl``.

    Attributes
    ----------
    round : int
        From 1.
    clients : list of int
        Partition ids of those that were asked to train.
    train_loss, train_accuracy : float or None
        On the query batches, after the inner steps, weighted by examples; of a strategy that only
        trains on all batches, before each one's step. None if the strategy does not say.
    phase : str
        ``search``, or ``training`` of a network whose architecture is decided.
    test_loss, test_accuracy : float or None
        Of the supernet on the global test set, where it was measured.
    client_accuracy : ClientAccuracy or None
        Of the clients that can be drawn, where it was measured.
    tau : float
        Temperature.
    operations_alive, pairs_alive : int
        After the round's pruning, both cell types together.
    entropy : float
        Of the operations on an edge, 0 (decided) to 1 (uniform).
    seconds : dict of str to float
        ``total``, and its parts ``client`` (compute of the busiest worker in training), ``server``
        (aggregation and pruning), ``transport`` (the rest of the time between sending and the last
        reply) and ``evaluation``, central and the clients', which is no part of an algorithm.
    bytes_down, bytes_up : dict of str to int
        ``weights`` and ``alphas``, of the training messages.
    left_out : list of LeftOut
        Whose replies were left out, in training or evaluation, and why.
    """

    round: int
    phase: str
    clients: list[int]
    train_loss: float | None
    train_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    client_accuracy: ClientAccuracy | None
    tau: float
    operations_alive: int
    pairs_alive: int
    entropy: float
    seconds: dict[str, float]
    bytes_down: dict[str, int]
    bytes_up: dict[str, int]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with.

    Attributes
    ----------
    genotype : Genotype
        The architecture found.
    weights : dict of str to Tensor
        Its weights.
    summary : dict
        What ``summary.json`` holds.
    """

    genotype: Genotype
    weights: Weights
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchState:
    """What a search is after a round, beside what its strategy remembers.

    Attributes
    ----------
    round : int
        The last round that is done; 0 before the first.
    arrays : ArrayRecord
        The global model.
    totals : dict of str to float
        So far: ``bytes_down`` and ``bytes_up``, ``seconds`` of all, and of the algorithm those of
        ``search`` and ``training``.
    """

    round: int
    arrays: ArrayRecord
    totals: Mapping[str, float]


class Hook:
    """What is called beside the algorithm: records, progress, whatever else must not be in it.

    It does nothing; a hook overrides what it needs.
    """

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        """Take note of a finished round, and of what the next one starts from."""

    def on_end(self, result: SearchResult) -> None:
        """Take note of the end of a search that completed."""
