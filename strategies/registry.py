"""Strategies by name: the registered ones, and any other as ``package.module:Class``.

>>> @register("mine")
... class Mine(FedMetaNAS):
...     ...
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.serverapp.strategy import FedAvg, Strategy

from .fedavg import FedAvgNetwork
from .fedmetanas import FedMetaNAS, SearchPlan
from .fednas import FedNAS
from .perfedavg import PerFedAvg
from .random_network import RandomNetwork

STRATEGIES: dict[str, type[Strategy]] = {
    "fedmetanas": FedMetaNAS,
    "fednas": FedNAS,
    "fedavg": FedAvgNetwork,
    "perfedavg": PerFedAvg,
    "random": RandomNetwork,
}

StrategyClass = TypeVar("StrategyClass", bound=type[Strategy])


class StrategyError(ValueError):
    """A strategy cannot be found or made. The message is one line."""


def register(name: str) -> Callable[[StrategyClass], StrategyClass]:
    """Register a strategy class under a name for ``strategy.name``.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if name in STRATEGIES:
        raise ValueError(f"strategy name {name!r} is taken")

    def add(cls: StrategyClass) -> StrategyClass:
        STRATEGIES[name] = cls
        return cls

    return add


def make_strategy(name: str, options: Mapping[str, Any], plan: SearchPlan) -> Strategy:
    """Make a strategy.

    Parameters
    ----------
    name : str
        A registered name or ``package.module:Class``.
    options : mapping
        Keyword arguments of the class.
    plan : SearchPlan
        First argument of :class:`FedMetaNAS` and its subclasses; others get the options alone.

    Raises
    ------
    StrategyError
        If there is no such class, it is not a Flower strategy, or it refuses the options.
    """
    cls = _find(name)
    try:
        strategy = cls(plan, **options) if issubclass(cls, FedMetaNAS) else cls(**options)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"strategy.options: {name}: {error}") from None
    if isinstance(strategy, FedAvg):
        # One client is enough: Flower's default of two would wait for ever for a second.
        strategy.min_train_nodes = strategy.min_available_nodes = 1
    return strategy


def _find(name: str) -> type[Strategy]:
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise StrategyError(
                f"strategy.name: expected one of {known}, or package.module:Class; found {name!r}"
            )
        return STRATEGIES[name]
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise StrategyError(f"strategy.name: cannot find {name!r}: {reason}") from None
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise StrategyError(f"strategy.name: {name!r} is not a flwr.serverapp.strategy.Strategy")
    return found
