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
import inspect
import sys
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

# How many nodes Flower waits for, for ever. Here the round loop does, and one client is enough.
NODES = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")

# Options of Flower's strategies that change nothing here, and why.
WITHOUT_EFFECT = {
    **dict.fromkeys(NODES, "a round waits for its own clients, see clients_per_round"),
    "fraction_evaluate": "all clients are measured, see evaluation.every",
    "eta_l": "clients take steps of their own, see client.outer_lr",
    **dict.fromkeys(
        ("arrayrecord_key", "configrecord_key"), "clients take a record whatever its name is"
    ),
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
    parameters = _parameters(cls)
    given = dict(options)
    for key, value in options.items():
        if words := _expected(key, value, parameters.get(key)):
            raise StrategyError(
                f"{place}.options.{key}: {name}: expected {words}; found {value!r:.80}"
            )
        if _is_section(value) and _takes_strategy(parameters.get(key)):
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


def _is_section(value: Any) -> bool:
    """Return whether an option names a strategy, as the section ``strategy`` does."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("options", {}), Mapping)
        and value.keys() <= {"name", "options"}
    )


def _takes_strategy(parameter: inspect.Parameter | None) -> bool:
    """Return whether a parameter is for a strategy: by its type or, where it has none, its name."""
    if parameter is None:
        return False
    kind = parameter.annotation
    if kind is parameter.empty:
        return parameter.name == "strategy"
    return "Strategy" in str(kind) or (isinstance(kind, type) and issubclass(kind, Strategy))


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
    if key in WITHOUT_EFFECT:
        return f"it to be left out, since {WITHOUT_EFFECT[key]}"
    if _takes_strategy(parameter):
        return "" if _is_section(value) else "a strategy, as a section with name and options"
    known = parameter.default is not None and parameter.default is not parameter.empty
    kind = type(parameter.default) if known else parameter.annotation
    if "Callable" in str(kind):
        return "what YAML cannot hold; set it in a class of your own"
    number = type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind in KINDS and not (number if kind is float else type(value) is kind):
        return KINDS[kind]
    if key == "fraction_train" and number and not 0 < value <= 1:
        return "greater than 0 and at most 1"
    if key == "proximal_mu" and number and value < 0:
        return "at least 0"
    return ""


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
