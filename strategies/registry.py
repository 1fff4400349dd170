"""Strategies by name: the registered ones, and any other as ``package.module:Class``.

>>> @register("mine")
... class Mine(FedMetaNAS):
...     ...

A strategy that takes another one, as Flower's privacy wrappers do, finds it among its options as a
section like ``strategy`` itself::

    strategy:
      name: flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping
      options:
        noise_multiplier: 0.001
        clipping_norm: 10.0
        num_sampled_clients: 10
        strategy: {name: fedmetanas}

A strategy that takes a parameter named ``plan`` is given the :class:`SearchPlan` of the experiment.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.serverapp.strategy import FedXgbBagging, FedXgbCyclic, Strategy

from fedmetanas.errors import StrategyError

from . import wire
from .abilities import strategies_in
from .fedavg import FedAvgNetwork
from .fedmetanas import FedMetaNAS, SearchPlan
from .fednas import FedNAS
from .finalists import Finalists
from .options import NODES, expected, is_section, parameters_of, takes_mapping
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

# What names a metric of the clients in Flower's strategies, also where it is left out.
NAMES_OF_METRICS = ("weighted_by_key", "train_loss_key")

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


def make_strategy(
    name: str, options: Mapping[str, Any], plan: SearchPlan, place: str = "strategy"
) -> Strategy:
    """Make a strategy.

    Parameters
    ----------
    name : str
        A registered name or ``package.module:Class``.
    options : mapping
        Keyword arguments of the class; a strategy among them is a mapping with the keys ``name``
        and ``options``.
    plan : SearchPlan
        Also given to every class that has a parameter of this name.
    place : str
        The section of the settings that this is, for error messages.

    Raises
    ------
    StrategyError
        If there is no such class, it is not a Flower strategy, it cannot do here what it says, or
        an option is unknown, wrong or without effect.
    """
    cls = _find(name, place)
    _refuse_impossible(cls, name, place)
    parameters = parameters_of(cls)
    given = dict(options)
    for key, value in options.items():
        if words := expected(cls, key, value):
            raise StrategyError(
                f"{place}.options.{key}: {name}: expected {words}; found {value!r:.80}"
            )
        if is_section(value) and not takes_mapping(parameters.get(key)):
            inner = value.get("options", {})
            given[key] = make_strategy(value["name"], inner, plan, f"{place}.options.{key}")
    try:
        strategy = cls(**({"plan": plan} if "plan" in parameters else {}), **given)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"{place}.options: {name}: {error}") from None
    _fit_in(strategy, name, place)
    return strategy


def _fit_in(strategy: Strategy, name: str, place: str) -> None:
    """Free a strategy, and those that it holds, from waiting for nodes; refuse what cannot work."""
    for one in strategies_in(strategy).values():
        _refuse_impossible(type(one), name, place)
        attributes = vars(one)
        attributes.update({key: 1 for key in NODES if key in attributes})
        for key in NAMES_OF_METRICS:
            if attributes.get(key, wire.MEASURES[0]) not in wire.MEASURES:
                raise StrategyError(
                    f"{place}.options.{key}: {name}: expected a metric of the clients, out of "
                    f"{', '.join(wire.MEASURES)}; found {attributes[key]!r:.80}"
                )


def _refuse_impossible(cls: type[Strategy], name: str, place: str) -> None:
    """Raise if a class, which may be of a strategy within, cannot do here what it says."""
    beginning = f"{place}.name: {name}: {cls.__name__}"
    if issubclass(cls, FedXgbBagging | FedXgbCyclic):
        raise StrategyError(f"{beginning} hands trees of XGBoost on; clients here train a network")
    if not issubclass(cls, FedMetaNAS):
        return
    first, *others = (base for base in cls.__mro__ if "aggregate_train" in vars(base))
    for base in (first, *others):
        unrelated = not (issubclass(base, FedMetaNAS) or issubclass(FedMetaNAS, base))
        joins_both = issubclass(first, FedMetaNAS) and issubclass(first, base)
        if unrelated and issubclass(base, Strategy) and not joins_both:
            raise StrategyError(
                f"{beginning} is both FedMetaNAS and {base.__name__}, which aggregate in two ways; "
                "define its own aggregate_train, or derive it from one of them"
            )


def _find(name: str, place: str) -> type[Strategy]:
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise StrategyError(
                f"{place}.name: expected one of {known}, or package.module:Class; found {name!r}"
            )
        return STRATEGIES[name]
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # whatever a module raises that is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise StrategyError(f"{place}.name: cannot find {name!r}: {reason}") from None
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise StrategyError(f"{place}.name: {name!r} is not a flwr.serverapp.strategy.Strategy")
    return found
