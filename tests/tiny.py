"""The smallest experiment that is still a search: it runs in about half a second."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import Strategy

from fedmetanas.experiments.engines.apps import CLIENT_APP, NODE, AppByName
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.experiments.experiment import Experiment, open_experiment
from fedmetanas.experiments.settings import Settings, from_yaml
from fedmetanas.search_space.alphas import Alphas
from fedmetanas.server.hooks import Hook, RoundResult, SearchResult, SearchState
from fedmetanas.server.loop import search
from fedmetanas.strategies.registry import make_strategy

_CACHE = tempfile.TemporaryDirectory(prefix="fedmetanas-tests-")  # gone when the tests end

YAML = f"""
name: tiny
rounds: 3
clients: 3
held_out_clients: 1
data:
  cache: {_CACHE.name}
search:
  channels: 4
  layers: 2
  nodes: 1
  operations: [skip_connect, sep_conv_3x3, avg_pool_3x3]
  tau_end: 0.0005
  tau_rounds: 3
client:
  episodes: 1
  batch_size: 8
  adapt_steps: 1
evaluation:
  every: 1
"""


def settings_of(*overrides: str) -> Settings:
    """Return the tiny settings with some changes."""
    return from_yaml(YAML, overrides)


@lru_cache
def experiment_of(*overrides: str) -> Experiment:
    """Return a tiny experiment, opened once."""
    return open_experiment(settings_of(*overrides))


def context_of(run_config: Mapping[str, Any]) -> Context:
    return Context(
        run_id=1,
        node_id=NODE,
        node_config={"simulated": True},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def strategy_of(*overrides: str) -> Strategy:
    """Return the strategy of the tiny settings with some changes."""
    chosen = settings_of(*overrides).strategy
    return make_strategy(chosen.name, chosen.options, experiment_of(*overrides).plan)


def run_search(
    *overrides: str,
    strategy: Strategy | None = None,
    hooks: Sequence[Hook] = (),
    experiment: Experiment | None = None,
    earlier: SearchState | None = None,
) -> SearchResult:
    """Search inline with the real apps; `experiment` is the server's, if it is to differ."""
    settings = settings_of(*overrides)
    experiment = experiment_of(*overrides) if experiment is None else experiment
    strategy = strategy or strategy_of(*overrides)
    run_config = {"settings": settings.to_yaml()}
    grid = InlineGrid(AppByName(CLIENT_APP, run_config), context_of(run_config))
    return search(grid, strategy, experiment, hooks, earlier)


class Listener(Hook):
    """A hook that remembers."""

    def __init__(self) -> None:
        self.rounds: list[RoundResult] = []
        self.ends: list[SearchResult] = []

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        assert not self.ends
        self.rounds.append(result)

    def on_end(self, result: SearchResult) -> None:
        self.ends.append(result)


def random_alphas(experiment: Experiment, seed: int, scale: float = 1.0) -> Alphas:
    generator = torch.Generator().manual_seed(seed)
    initial = Alphas.initial(experiment.topology, generator)
    return Alphas(*(scale * 1000 * tensor for tensor in initial.tensors()))


def same_bits(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first
    )
