"""What a strategy remembers from round to round, as plain values and arrays.

A strategy's state is its attributes: masks, an optimiser's moments, counters. They are written as
JSON and arrays, never pickled, so reading them runs no code. What the class itself brings,
functions and the search plan, is not state: it is made anew. So is a strategy that another holds;
its attributes are remembered with the other's.
"""

import math
from collections.abc import Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedmetanas.search_space.alphas import Mask

from . import wire
from .abilities import strategies_in
from .aggregation import AnyArray
from .fedmetanas import SearchPlan

SCALARS = (type(None), bool, int, float, str)
NOT_STATE = (FunctionType, BuiltinFunctionType, MethodType, partial, type, SearchPlan, Strategy)


class StateError(ValueError):
    """A strategy remembers something that cannot be written down. The message is one line."""


def state_of(strategy: Strategy) -> dict[str, Any]:
    """Return what a strategy remembers, and what those that it holds do.

    Returns
    -------
    dict of str to object
        By the names of the attributes; those of a strategy in the attribute ``strategy`` are
        ``strategy.<name>``.

    Raises
    ------
    StateError
        If an attribute is of a kind that :func:`pack` does not know.
    """
    state = {}
    for path, one in strategies_in(strategy).items():
        for name, value in vars(one).items():
            if isinstance(value, NOT_STATE):
                continue
            try:
                pack(value, {})
            except StateError as error:
                raise StateError(f"{type(strategy).__name__}.{path}{name}: {error}") from None
            state[path + name] = value
    return state


def restore(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Give a strategy, made anew, what it and those that it holds remembered.

    Raises
    ------
    StateError
        If it does not hold a strategy that it held then.
    """
    held = strategies_in(strategy)
    for key, value in state.items():
        path, dot, name = key.rpartition(".")
        if path + dot not in held:
            raise StateError(f"{type(strategy).__name__} holds no strategy as its {path}")
        vars(held[path + dot])[name] = value


def pack(value: Any, arrays: dict[str, AnyArray]) -> Any:
    """Return a value as JSON's plain ones; its arrays go into `arrays`, under new keys.

    Parameters
    ----------
    value : object
        A number, a text, None, an array, a tensor, a mask, an ArrayRecord, or a dict, list or tuple
        of those.
    arrays : dict of str to array
        Added to.

    Raises
    ------
    StateError
        If it is of another kind.
    """
    if isinstance(value, SCALARS) and not isinstance(value, np.generic):
        odd = isinstance(value, float) and not math.isfinite(value)  # which JSON does not know
        return {"float": str(value)} if odd else value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        key = f"array-{len(arrays)}"
        arrays[key] = np.array(value, order="C")  # in another, safetensors would mix it up
        return {"number" if isinstance(value, np.generic) else "array": key}
    if isinstance(value, torch.Tensor):
        return {"tensor": pack(value.detach().cpu().numpy(), arrays)}
    if isinstance(value, Mask):
        return {"mask": pack(dict(value.items()), arrays)}
    if isinstance(value, ArrayRecord):
        return {"record": pack(wire.from_record(value), arrays)}
    if type(value) is dict:  # one of another class would come back without what makes it one
        return {"dict": [[pack(k, arrays), pack(v, arrays)] for k, v in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [pack(entry, arrays) for entry in value]}
    raise StateError(f"a {type(value).__name__} cannot be saved in a checkpoint")


def unpack(tree: Any, arrays: Mapping[str, AnyArray]) -> Any:
    """Return the value that :func:`pack` was given.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is nothing that :func:`pack` has written.
    """
    if isinstance(tree, SCALARS):
        return tree
    ((kind, inner),) = tree.items()
    if kind == "float":
        return float(inner)
    if kind in ("array", "number"):
        return arrays[inner] if kind == "array" else arrays[inner][()]
    if kind in ("list", "tuple"):
        entries = [unpack(entry, arrays) for entry in inner]
        return entries if kind == "list" else tuple(entries)
    if kind == "dict":
        return {unpack(k, arrays): unpack(v, arrays) for k, v in inner}
    value = unpack(inner, arrays)
    if kind == "tensor":
        return torch.from_numpy(value)
    return Mask(**value) if kind == "mask" else wire.to_record(value)
