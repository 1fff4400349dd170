"""What the options of a strategy must be, as far as its constructor and its name in Flower say it.

Flower's strategies check little: the wrong type would be noticed in the first round, and what no
mathematics can use would come out as NaN, or as what was not asked for.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy

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

# The ranges of options, whoever's strategy has them.
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "fraction_train": (lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
    "proximal_mu": (lambda value: value >= 0, "at least 0"),
}

# Those of options that mean this in Flower's own strategies.
RANGES_OF_FLOWER: dict[str, tuple[Callable[[float], bool], str]] = {
    "beta": (lambda value: 0 <= value < 0.5, "at least 0 and less than 0.5"),
    **dict.fromkeys(
        ("beta_1", "beta_2"), (lambda value: 0 <= value < 1, "at least 0 and less than 1")
    ),
    **dict.fromkeys(("tau", "client_learning_rate"), (lambda value: value > 0, "greater than 0")),
    "num_malicious_nodes": (lambda value: value >= 0, "at least 0"),
    "num_nodes_to_select": (lambda value: value >= 1, "at least 1"),
}


def is_section(value: Any) -> bool:
    """Return whether an option names a strategy, as the section ``strategy`` does."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("options", {}), Mapping)
        and value.keys() <= {"name", "options"}
    )


def takes_strategy(parameter: inspect.Parameter | None) -> bool:
    """Return whether a parameter is for a strategy: by its type or, where it has none, its name."""
    if parameter is None:
        return False
    kind = parameter.annotation
    if kind is parameter.empty:
        return parameter.name == "strategy"
    return "Strategy" in str(kind) or (isinstance(kind, type) and issubclass(kind, Strategy))


def takes_mapping(parameter: inspect.Parameter | None) -> bool:
    """Return whether a parameter is for a mapping of its own, by its type or its default."""
    if parameter is None:
        return False
    kind = str(parameter.annotation).lower()
    return "mapping" in kind or "dict" in kind or isinstance(parameter.default, Mapping)


def parameters_of(cls: type[Strategy]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor, and of those that it hands its options on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = _own(base)
            found = {**own, **found}
            if all(one.kind is not one.VAR_KEYWORD for one in own.values()):
                break
    return found


def expected(cls: type[Strategy], key: str, value: Any) -> str:
    """Say what an option must be, if it is not; what the signature leaves open is taken."""
    parameter = parameters_of(cls).get(key)
    if parameter is None:
        return ""
    if value is None and (parameter.default is None or "None" in str(parameter.annotation)):
        return ""
    of_flower = _is_of_flower(cls, key)
    if of_flower and key in WITHOUT_EFFECT:
        return f"it to be left out, since {WITHOUT_EFFECT[key]}"
    if takes_strategy(parameter):
        return "" if is_section(value) else "a strategy, as a section with name and options"
    known = parameter.default is not None and parameter.default is not parameter.empty
    kind = parameter.annotation
    if known and kind not in tuple(KINDS):  # the annotation is the stronger word
        whole = type(parameter.default) is int
        kind = float if whole and "float" in str(kind) else type(parameter.default)
    if "Callable" in str(kind):
        return "what YAML cannot hold; set it in a class of your own"
    number = type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind in KINDS and not (number if kind is float else type(value) is kind):
        return KINDS[kind]
    ranges = RANGES | (RANGES_OF_FLOWER if of_flower else {})
    if number and key in ranges:
        holds, words = ranges[key]
        return "" if holds(value) else words
    return ""


def _is_of_flower(cls: type[Strategy], key: str) -> bool:
    """Return whether it is a class of Flower that declares a parameter."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base) and key in _own(base))
    return owner.__module__.startswith("flwr.")


def _own(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class's own constructor."""
    return inspect.signature(vars(cls)["__init__"]).parameters
