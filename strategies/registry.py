"""Strategies by name: the registered ones, and any other as ``package.module:Class``.

>>> @register("mine")
... class Mine(FedMetaNAS):
...     ...
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.serverapp.strategy import FedAvg, Strategy

from fedmetanas.errors import StrategyError

from .fedavg import FedAvgNetwork
from .fedmetanas import FedMetaNAS, SearchPlan
from .fednas import FedNAS
from .finalists import Finalists
from .perfedavg import PerFedAvg
from .random_network import RandomNetwork

STRATEGIES: dict[str, type[Strategy]] = {
    "fedmetanas": FedMetaNAS,
    "finalists": Finalists,
    "fednas": FedNAS,
    "fedavg": FedAvgNetwork,
    "perfedavg": PerFedAvg,
    "random": RandomNetwork,
}

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

# The round loop draws the clients of a round and waits for its nodes; Flower would for ever.
TAKEN_CARE_OF = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")

StrategyClass = TypeVar("StrategyClass", bound=type[Strategy])


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
        If there is no such class, it is not a Flower strategy, or an option is unknown or wrong.
    """
    cls = _find(name)
    parameters = _parameters(cls)
    for key, value in options.items():
        if words := _expected(key, value, parameters.get(key)):
            raise StrategyError(
                f"strategy.options.{key}: {name}: expected {words}; found {value!r:.80}"
            )
    try:
        strategy = cls(plan, **options) if issubclass(cls, FedMetaNAS) else cls(**options)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"strategy.options: {name}: {error}") from None
    if isinstance(strategy, FedAvg):
        # One client is enough: Flower's default of two would wait for ever for a second.
        strategy.min_train_nodes = strategy.min_available_nodes = 1
    return strategy


def _parameters(cls: type[Strategy]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor, and of those that it hands its options on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(base.__init__).parameters  # type: ignore[misc]
            found = {**own, **found}
            if all(one.kind is not one.VAR_KEYWORD for one in own.values()):
                break
    return found


def _expected(key: str, value: Any, parameter: inspect.Parameter | None) -> str:
    """Say what an option must be, if it is not; what the signature leaves open is taken.

    Flower's strategies check nothing: the wrong type would be noticed in the first round, and a
    fraction of more than all nodes would wait for them for ever.
    """
    if parameter is None or (value is None and parameter.default is None):
        return ""
    if key in TAKEN_CARE_OF:
        return "it to be left out, since a round waits for its own clients, see clients_per_round"
    known = parameter.default is not None and parameter.default is not parameter.empty
    kind = type(parameter.default) if known else parameter.annotation
    if kind is Strategy or "Callable" in str(kind):
        return "what YAML cannot hold; set it in a class of your own"
    number = type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind in KINDS and not (number if kind is float else type(value) is kind):
        return KINDS[kind]
    if key == "fraction_train" and number and not 0 < value <= 1:
        return "greater than 0 and at most 1"
    if key == "fraction_evaluate" and number and not 0 <= value <= 1:
        return "from 0 to 1"
    return ""


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
    except (Exception, SystemExit) as error:  # whatever a module raises that is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise StrategyError(f"strategy.name: cannot find {name!r}: {reason}") from None
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise StrategyError(f"strategy.name: {name!r} is not a flwr.serverapp.strategy.Strategy")
    return found
