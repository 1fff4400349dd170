"""The one round loop: draw, train, aggregate, measure; then the last cut and the network."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmetanas.errors import RunError, StrategyError
from fedmetanas.experiments.console import one_line
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.randomness import seeded_random
from fedmetanas.search_space.pruning import entropy
from fedmetanas.strategies import wire
from fedmetanas.strategies.abilities import check_served, round_config
from fedmetanas.strategies.flower import StrategyRefusal

from .aggregated import model_of, unpacked
from .clients import Clients
from .ending import finish, relaxed_of, spent
from .evaluation import evaluate_clients, evaluate_supernet, pooled, spread_of
from .hooks import Hook, RoundResult, SearchResult, SearchState
from .nodes import Nodes, simulated_nodes
from .partition_grid import PartitionGrid, draw


def search(
    grid: Grid,
    strategy: Strategy,
    experiment: Experiment,
    hooks: Sequence[Hook],
    earlier: SearchState | None = None,
    nodes: Nodes | None = None,
) -> SearchResult:
    """Run all rounds of a search and return the network it found.

    Parameters
    ----------
    grid : Grid
        Flower's grid of the run.
    strategy : Strategy
        Any strategy; one with a ``round_config``, or that holds one, decides what is alive.
    experiment : Experiment
        Settings, data and supernet.
    hooks : sequence of Hook
        Called in their order.
    earlier : SearchState, optional
        What the search goes on from, the strategy being what it was then.
    nodes : Nodes, optional
        Which node plays a client; default: any, as in a simulation.

    Raises
    ------
    ClientError
        If too few clients give a good reply.
    StrategyError
        If the strategy sends what clients do not know, or refuses its first round.
    RunError
        If the strategy asks no client, refuses a later round, or makes of the replies nothing or
        something that is no model.
    """
    clients = Clients(grid, experiment, nodes or simulated_nodes(grid, experiment))
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
    finished = finish(clients, strategy, state.arrays)
    finished.summary.update(spent(state.totals, before + time.perf_counter() - started))
    for hook in hooks:
        hook.on_end(finished)
    return finished


def _start(experiment: Experiment) -> SearchState:
    """Return what a search starts from."""
    arrays = wire.to_record(wire.to_arrays(*experiment.initial_parameters()))
    totals = {"bytes_down": 0, "bytes_up": 0, "seconds": 0.0, "search": 0.0, "training": 0.0}
    return SearchState(0, arrays, totals)


def _run_round(
    clients: Clients, strategy: Strategy, server_round: int, arrays: ArrayRecord
) -> tuple[ArrayRecord, RoundResult]:
    """Train one round and measure what is due."""
    experiment = clients.experiment
    started = time.perf_counter()
    trained = _train(clients, strategy, server_round, arrays)
    served = time.perf_counter()
    config = round_config(strategy, experiment.plan, server_round)
    relaxed = relaxed_of(experiment, config)
    alive = wire.alive_keys(arrays, experiment.plan.shape, relaxed.mask)
    name = experiment.settings.strategy.name
    weights, alphas = model_of(trained.arrays, arrays, alive, name, server_round)
    tested, measured = None, []
    left_out = trained.view.left_out
    due = server_round % experiment.settings.evaluation.every == 0
    if due and server_round < experiment.settings.rounds:  # then the derived network is
        everyone = clients.view(range(experiment.settings.clients), server_round)
        measured = evaluate_clients(everyone, trained.arrays, server_round, config)
        left_out = left_out + everyone.left_out
        if experiment.test:
            tested = evaluate_supernet(experiment, experiment.test, relaxed, weights, alphas)
        else:
            tested = pooled(measured)
    ended = time.perf_counter()
    operations, pairs = relaxed.mask.counts()
    result = RoundResult(
        round=server_round,
        phase=config.get("phase", "search"),
        clients=trained.clients,
        train_loss=_number(trained.metrics, "loss"),
        train_accuracy=_number(trained.metrics, "accuracy"),
        test_loss=tested[0] if tested else None,
        test_accuracy=tested[1] if tested else None,
        client_accuracy=spread_of(measured),
        tau=relaxed.tau,
        operations_alive=operations,
        pairs_alive=pairs,
        entropy=entropy(alphas, relaxed.mask, experiment.topology, relaxed.tau),
        seconds=_seconds(trained.view, started, served, ended),
        bytes_down=_by_kind(trained.view.sent),
        bytes_up=_by_kind(trained.view.received),
        left_out=left_out,
    )
    return trained.arrays, result


@dataclass(frozen=True)
class _Trained:
    """What the training of a round made of the global model, and over which view of the grid."""

    arrays: ArrayRecord
    metrics: MetricRecord
    clients: list[int]
    view: PartitionGrid


def _train(
    clients: Clients, strategy: Strategy, server_round: int, arrays: ArrayRecord
) -> _Trained:
    """Draw clients, let the strategy configure them, and aggregate their replies."""
    settings = clients.experiment.settings
    name, seed = settings.strategy.name, settings.seed
    drawn = draw(settings.clients, settings.drawn, seed, server_round)
    needed = settings.min_replies or (len(drawn) + 1) // 2
    view = clients.view(drawn, server_round, needed)
    own = wire.select(arrays, arrays)  # a strategy may take out what it does not send
    try:
        with seeded_random("strategy", seed, server_round):
            messages = list(strategy.configure_train(server_round, own, ConfigRecord(), view))
        if not messages:
            raise RunError(f"strategy.name: {name} asks no client to train")
        check_served(strategy, name, server_round, messages)
        replies = view.send_and_receive(messages)
        with seeded_random("aggregation", seed, server_round):
            result = strategy.aggregate_train(server_round, replies)
    except StrategyRefusal as error:
        kind = StrategyError if server_round == 1 else RunError  # by its options, or on the way
        raise kind(f"strategy.name: {name}: {one_line(error)}") from None
    aggregated, metrics = unpacked(result, name, server_round, len(list(replies)))
    asked = sorted(message.metadata.dst_node_id for message in messages)
    return _Trained(aggregated, metrics, asked, view)


def _number(metrics: MetricRecord, key: str) -> float | None:
    value = metrics.get(key)
    return float(value) if isinstance(value, int | float) else None


def _seconds(view: PartitionGrid, started: float, served: float, ended: float) -> dict[str, float]:
    """Return where the time of a round has gone; see :class:`RoundResult`."""
    return {
        "total": ended - started,
        "client": view.client_seconds,
        "server": served - started - view.waited,
        "transport": view.waited - view.client_seconds,
        "evaluation": ended - served,
    }


def _by_kind(counts: tuple[int, int]) -> dict[str, int]:
    return {"weights": counts[0], "alphas": counts[1]}
