"""The one round loop: draw, train, aggregate, measure; then the last cut and the network."""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmetanas.errors import RunError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.randomness import seeded_random
from fedmetanas.search_space.alphas import Mask
from fedmetanas.search_space.complexity import count_macs, count_parameters
from fedmetanas.search_space.genotype import Genotype
from fedmetanas.search_space.prediction import Relaxed
from fedmetanas.search_space.pruning import entropy, final_cut
from fedmetanas.search_space.supernet import Weights
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS

from .evaluation import (
    ClientAccuracy,
    evaluate_clients,
    evaluate_network,
    evaluate_supernet,
    searched,
)
from .partition_grid import PartitionGrid, draw
from .replies import LeftOut

ADDRESS = re.compile(r"0x[0-9a-f]+")  # of an object, as Python writes it
TRACEBACKS = 100  # shown in a run at most


@dataclass(frozen=True)
class RoundResult:
    """What a round was: one line of ``metrics.jsonl``.

    Attributes
    ----------
    round : int
        From 1.
    clients : list of int
        Partition ids of those that were asked to train.
    train_loss, train_accuracy : float
        On the query batches, after the inner steps, weighted by examples; of a strategy that only
        trains on all batches, before each one's step.
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
    train_loss: float
    train_accuracy: float
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


class Hook(Protocol):
    """What is called beside the algorithm: records, progress, whatever else must not be in it."""

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        """Take note of a finished round, and of what the next one starts from."""

    def on_end(self, result: SearchResult) -> None:
        """Take note of the end of a search that completed."""


class Clients:
    """The clients of an experiment, on the grid of a run.

    Parameters
    ----------
    grid : Grid
        Flower's grid of the run.
    experiment : Experiment
        For their parts, and for how long they may take.
    """

    def __init__(self, grid: Grid, experiment: Experiment) -> None:
        self.grid = grid
        self.experiment = experiment
        self.tracebacks: set[str] = set()  # that were shown; each is once, and not very many are

    def view(self, partitions: Sequence[int], server_round: int, needed: int = 0) -> PartitionGrid:
        """Return a view of some, the largest first: none is left to wait for at the end."""
        experiment = self.experiment
        return PartitionGrid(
            self.grid,
            sorted(partitions, key=lambda client: -experiment.parts[client].size),
            experiment.settings.engine.timeout,
            len(experiment.dataset.train.labels),
            experiment.settings.engine.min_nodes,
            needed,
            partial(self._report, server_round),
        )

    def _report(self, server_round: int, left: LeftOut, trace: str) -> None:
        """Say that a reply is left out, on the console."""
        words = f"round {server_round}: client {left.client} left out of {left.stage}: "
        same = ADDRESS.sub("", trace)  # two of the same kind of fault differ in these
        is_new = same not in self.tracebacks and len(self.tracebacks) < TRACEBACKS
        if trace and is_new:
            self.tracebacks.add(same)
        shown = trace if trace and is_new else left.reason
        say(words + shown.strip(), stream=sys.stderr)


def search(
    grid: Grid,
    strategy: Strategy,
    experiment: Experiment,
    hooks: Sequence[Hook],
    earlier: SearchState | None = None,
) -> SearchResult:
    """Run all rounds of a search and return the network it found.

    Parameters
    ----------
    grid : Grid
        Flower's grid of the run.
    strategy : Strategy
        Any strategy; one of :class:`fedmetanas.strategies.fedmetanas.FedMetaNAS` decides what is
        alive.
    experiment : Experiment
        Settings, data and supernet.
    hooks : sequence of Hook
        Called in their order.
    earlier : SearchState, optional
        What the search goes on from, the strategy being what it was then.

    Raises
    ------
    ClientError
        If too few clients give a good reply.
    RunError
        If the strategy asks no client, or makes something that is not finite of their replies.
    """
    clients = Clients(grid, experiment)
    started = time.perf_counter()
    state = earlier or _start(experiment)
    before = state.totals["seconds"]
    for server_round in range(state.round + 1, experiment.settings.rounds + 1):
        arrays, result = _run_round(clients, strategy, server_round, state.arrays)
        totals = dict(state.totals, seconds=before + time.perf_counter() - started)
        for way in ("bytes_down", "bytes_up"):
            totals[way] += sum(getattr(result, way).values())
        totals[result.phase] += result.seconds["total"] - result.seconds["evaluation"]
        state = SearchState(server_round, arrays, totals)
        for hook in hooks:
            hook.on_round(result, state)
    finished = _finish(clients, strategy, state.arrays)
    finished.summary.update(_spent(state.totals, before + time.perf_counter() - started))
    for hook in hooks:
        hook.on_end(finished)
    return finished


def _start(experiment: Experiment) -> SearchState:
    """Return what a search starts from."""
    arrays = wire.to_record(wire.to_arrays(*experiment.initial_parameters()))
    totals = {"bytes_down": 0, "bytes_up": 0, "seconds": 0.0, "search": 0.0, "training": 0.0}
    return SearchState(0, arrays, totals)


def _spent(totals: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """Return what the summary says of bytes and seconds."""
    algorithm = {phase: totals[phase] for phase in ("search", "training")}
    return {
        "bytes_down": totals["bytes_down"],
        "bytes_up": totals["bytes_up"],
        "seconds": seconds,
        "algorithm_seconds": {**algorithm, "total": sum(algorithm.values())},
    }


def _run_round(
    clients: Clients, strategy: Strategy, server_round: int, arrays: ArrayRecord
) -> tuple[ArrayRecord, RoundResult]:
    """Train one round and measure what is due."""
    experiment, settings = clients.experiment, clients.experiment.settings
    started = time.perf_counter()
    drawn = draw(settings.clients, settings.drawn, settings.seed, server_round)
    needed = settings.min_replies or (len(drawn) + 1) // 2
    view = clients.view(drawn, server_round, needed)
    with seeded_random("strategy", settings.seed, server_round):
        messages = list(strategy.configure_train(server_round, arrays, ConfigRecord(), view))
    if not messages:
        raise RunError(f"strategy.name: {settings.strategy.name} asks no client to train")
    replies = view.send_and_receive(messages)
    aggregated, metrics = strategy.aggregate_train(server_round, replies)
    arrays = arrays if aggregated is None else aggregated
    metrics = MetricRecord() if metrics is None else metrics

    served = time.perf_counter()

    by_name = wire.from_record(arrays)
    for name, array in by_name.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"strategy.options: {settings.strategy.name} made {name} NaN or infinite of finite "
                f"replies, in round {server_round}"
            )
    weights, alphas = wire.from_arrays(by_name)
    config = _round_config(strategy, experiment, server_round)
    relaxed = _relaxed(experiment, config)
    test_loss = test_accuracy = client_accuracy = None
    left_out = view.left_out
    due = server_round % settings.evaluation.every == 0
    if due and server_round < settings.rounds:  # after the last round the derived network is
        test_loss, test_accuracy = evaluate_supernet(experiment, relaxed, weights, alphas)
        everyone = clients.view(range(settings.clients), server_round)
        client_accuracy = evaluate_clients(everyone, arrays, server_round, config)
        left_out = left_out + everyone.left_out
    ended = time.perf_counter()
    operations, pairs = relaxed.mask.counts()
    result = RoundResult(
        round=server_round,
        phase=config.get("phase", "search"),
        clients=sorted(message.metadata.dst_node_id for message in messages),
        train_loss=float(metrics.get("loss", float("nan"))),  # type: ignore[arg-type]
        train_accuracy=float(metrics.get("accuracy", float("nan"))),  # type: ignore[arg-type]
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        client_accuracy=client_accuracy,
        tau=relaxed.tau,
        operations_alive=operations,
        pairs_alive=pairs,
        entropy=entropy(alphas, relaxed.mask, experiment.topology, relaxed.tau),
        seconds={
            "total": ended - started,
            "client": view.client_seconds,
            "server": served - started - view.waited,
            "transport": view.waited - view.client_seconds,
            "evaluation": ended - served,
        },
        bytes_down=_by_kind(view.sent),
        bytes_up=_by_kind(view.received),
        left_out=left_out,
    )
    return arrays, result


def _finish(clients: Clients, strategy: Strategy, arrays: ArrayRecord) -> SearchResult:
    """Cut what has not converged, derive the network and measure it."""
    experiment, settings = clients.experiment, clients.experiment.settings
    weights, alphas = wire.from_arrays(wire.from_record(arrays))
    config = _round_config(strategy, experiment, settings.rounds)
    relaxed = _relaxed(experiment, config)
    _, before_cut = evaluate_supernet(experiment, relaxed, weights, alphas)
    limit = settings.search.weight_free_limit
    cut = final_cut(alphas, relaxed.mask, experiment.topology, limit)
    genotype, weights = searched(experiment, weights, cut)
    accuracy = evaluate_network(experiment, genotype, weights)

    final = wire.to_record(wire.to_arrays(weights, alphas))
    config = {**config, **wire.round_config(relaxed.tau, cut)}
    groups = {"client": range(settings.clients)}
    if settings.held_out_clients:
        groups["held_out"] = range(settings.clients, settings.partitions)
    summary: dict[str, Any] = {
        "name": settings.name,
        "strategy": settings.strategy.name,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "test_accuracy": accuracy,
        "accuracy_before_last_cut": before_cut,
        "pruning_gap": before_cut - accuracy,
        "operations_before_last_cut": relaxed.mask.counts()[0],
        "operations": cut.counts()[0],
        "parameters": count_parameters(weights),
        "macs": count_macs(genotype, experiment.dataset.test.images.shape[1:3]),
        "left_out": [],  # of the measurements below
    }
    for group, partitions in groups.items():
        view = clients.view(partitions, settings.rounds)
        measured = evaluate_clients(view, final, settings.rounds, config)
        summary["left_out"] += [asdict(left) for left in view.left_out]
        if measured is None:
            continue
        summary[f"{group}_accuracy_before"] = asdict(measured.before)
        summary[f"{group}_accuracy_after"] = asdict(measured.after)
    return SearchResult(genotype, weights, summary)


def _round_config(strategy: Strategy, experiment: Experiment, number: int) -> dict[str, Any]:
    """Return what the strategy would tell a client now; all is alive if it does not search."""
    if isinstance(strategy, FedMetaNAS):
        return strategy.round_config(number)
    return wire.round_config(experiment.plan.schedule(number), Mask.full(experiment.topology))


def _relaxed(experiment: Experiment, config: Mapping[str, Any]) -> Relaxed:
    """Return the supernet as a message describes it."""
    mask = wire.mask_from_config(config, experiment.topology)
    return experiment.relaxed(mask, config["tau"], config.get("relaxation"))


def _by_kind(counts: tuple[int, int]) -> dict[str, int]:
    return {"weights": counts[0], "alphas": counts[1]}
