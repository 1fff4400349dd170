"""What a strategy can do and what it needs of clients: asked of the object, not of its class.

A strategy may hold another, as Flower's privacy wrappers do: whoever asks, asks both. A wrapper
need not know what is in it, and what it wraps loses nothing.
"""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from fedmetanas.errors import StrategyError
from fedmetanas.search_space.alphas import Mask

from . import wire
from .fedmetanas import SearchPlan


@runtime_checkable
class Searching(Protocol):
    """A strategy that decides what is alive, and at which temperature."""

    def round_config(self, server_round: int) -> dict[str, Any]:
        """Return what every client is told in a round; see :mod:`fedmetanas.strategies.wire`."""


def strategies_in(strategy: Strategy) -> dict[str, Strategy]:
    """Return a strategy and all that it holds in attributes, the outer before the inner ones.

    Returns
    -------
    dict of str to Strategy
        By what stands before the names of their own attributes: ``""``, ``"strategy."``,
        ``"strategy.inner."``. Each strategy is in it once.
    """
    found = [("", strategy)]
    for path, one in found:  # which grows on the way
        for name, value in vars(one).items():
            if isinstance(value, Strategy) and all(value is not known for _, known in found):
                found.append((f"{path}{name}.", value))
    return dict(found)


def round_config(strategy: Strategy, plan: SearchPlan, server_round: int) -> dict[str, Any]:
    """Return what a strategy would tell a client now.

    Of what it says nothing of, and of a strategy that does not search, all is alive and the
    temperature is the plan's.
    """
    said = wire.round_config(plan.schedule(server_round), Mask.full(plan.shape.topology))
    searching = (one for one in strategies_in(strategy).values() if isinstance(one, Searching))
    return said | next((one.round_config(server_round) for one in searching), {})


def check_served(name: str, messages: Iterable[Message]) -> None:
    """Check that clients know every setting in a strategy's messages.

    Raises
    ------
    StrategyError
        If not: the strategy would be another one than its name says.
    """
    for message in messages:
        for record in message.content.config_records.values():
            unknown = [key for key in record if not wire.is_known(key)]
            if unknown:
                raise StrategyError(
                    f"strategy.name: {name} sends {', '.join(unknown)}, which clients here do not "
                    f"know; they know {', '.join(wire.CONFIG_KEYS)} and {wire.MASK}<name>"
                )
