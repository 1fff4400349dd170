"""A strategy, tried before anything is started: what it would send in its first round."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flwr.app import ConfigRecord, Message
from flwr.serverapp.strategy import Bulyan, MultiKrum, Strategy

from fedmetanas.errors import StrategyError
from fedmetanas.strategies import wire
from fedmetanas.strategies.abilities import check_served, strategies_in
from fedmetanas.strategies.flower import StrategyRefusal
from fedmetanas.strategies.registry import make_strategy
from fedmetanas.strategies.state import StateError, state_of

from .console import one_line
from .engines.apps import context_of
from .engines.inline import InlineGrid
from .experiment import Experiment
from .randomness import seeded_random

MOST_QUESTIONS = 10  # after how many a strategy seems to wait for more clients


class _OpenEndError(Exception):
    """What the strategy does next depends on clients, and there are none yet."""


class _Drawn(InlineGrid):
    """A grid of as many clients as a round has, whom nothing can be sent."""

    def __init__(self, clients: int) -> None:
        super().__init__(lambda message, context: message, context_of({}))
        self.clients = range(clients)
        self.questions = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients."""
        self.questions += 1
        if self.questions > MOST_QUESTIONS:
            raise _OpenEndError
        return self.clients

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send nothing."""
        raise _OpenEndError


def try_strategy(experiment: Experiment) -> None:
    """Make an experiment's strategy, and let it configure its first round.

    Raises
    ------
    StrategyError
        If it cannot be made, refuses to, sends what clients do not know, counts on more clients
        than a round has, or remembers what cannot be written into a checkpoint.
    """
    settings = experiment.settings
    name, options = settings.strategy.name, settings.strategy.options
    arrays = wire.to_record(wire.to_arrays(*experiment.initial_parameters()))
    try:
        with _muted(), seeded_random("strategy", settings.seed, 1):
            strategy = make_strategy(name, options, experiment.plan)
            grid = _Drawn(settings.drawn)
            try:
                messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
            except _OpenEndError:
                messages = []  # the run will tell
        check_served(strategy, name, 1, messages)
        if messages:
            _check_counts(strategy, name, len(messages))
        if settings.checkpoint.every:
            state_of(strategy)
    except StrategyRefusal as error:
        raise StrategyError(f"strategy.name: {name}: {one_line(error)}") from None
    except StateError as error:
        raise StrategyError(
            f"strategy.name: {name}: {error}; checkpoint.every=0 runs without any"
        ) from None


def _check_counts(strategy: Strategy, name: str, clients: int) -> None:
    """Raise if a strategy cannot choose among so many clients as it is to.

    Where all are honest, Flower says itself what is missing.
    """
    for one in strategies_in(strategy).values():
        needed = {}
        if isinstance(one, MultiKrum | Bulyan) and one.num_malicious_nodes:
            times = 4 if isinstance(one, Bulyan) else 1
            needed["num_malicious_nodes"] = times * one.num_malicious_nodes + 3
        if isinstance(one, MultiKrum):
            needed["num_nodes_to_select"] = one.num_nodes_to_select
        for key, least in needed.items():
            if clients < least:
                raise StrategyError(
                    f"strategy.options: {name}: {key}={getattr(one, key)} needs at least {least} "
                    f"clients a round; there are {clients}, see clients_per_round"
                )


@contextmanager
def _muted() -> Iterator[None]:
    """Let Flower say nothing: what it warns of is said when the strategy is made for the run."""
    flower = logging.getLogger("flwr")
    before = flower.level
    flower.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        flower.setLevel(before)
