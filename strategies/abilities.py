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


def check_served(
    strategy: Strategy, name: str, server_round: int, messages: Iterable[Message]
) -> None:
    """Check that clients read all that is in a strategy's messages to train.

    Raises
    ------
    StrategyError
        If not: the strategy would be another one than its name says.
    """
    searches = any(isinstance(one, Searching) for one in strategies_in(strategy).values())
    when = f", in round {server_round}," if server_round > 1 else ""
    for message in messages:
        if wrong := _not_served(message, searches):
            raise StrategyError(f"strategy.name: {name}{when} sends {wrong}")


def _not_served(message: Message, searches: bool) -> str:
    """Say what in a message is not for clients, and why, if anything is."""
    content = message.content
    configs = list(content.config_records.values())
    if len(content) != 2 or len(configs) != 1 or len(content.array_records) != 1:
        kinds = ", ".join(type(record).__name__ for record in content.values()) or "nothing"
        return f"{kinds} in a message; clients here read one ArrayRecord and one ConfigRecord"
    keys = list(configs[0])
    known = [key for key in wire.CONFIG_KEYS if key != wire.PARTITION]
    if unknown := [key for key in keys if key not in (*known, *wire.MASK_KEYS)]:
        return (
            f"{', '.join(unknown)}, which clients here do not know; they know {', '.join(known)} "
            f"and {', '.join(wire.MASK_KEYS)}"
        )
    missing = [key for key in wire.MASK_KEYS if key not in keys]
    if 0 < len(missing) < len(wire.MASK_KEYS):
        return f"a mask without {', '.join(missing)}"
    if not searches and (shared := [key for key in wire.SHARED_KEYS if key in keys]):
        return (
            f"{', '.join(shared)}, which the server goes by as well; return them from a method "
            "round_config(server_round)"
        )
    return ""
