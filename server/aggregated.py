"""What a strategy makes of the replies, checked before it becomes the global model."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from fedmetanas.errors import RunError
from fedmetanas.search_space.alphas import Alphas
from fedmetanas.search_space.supernet import Weights
from fedmetanas.strategies import wire


def unpacked(
    result: Any, name: str, server_round: int, replies: int
) -> tuple[ArrayRecord, MetricRecord]:
    """Return the two records that ``aggregate_train`` has returned.

    Parameters
    ----------
    result : object
        What it has returned: a pair of records, of which that of metrics may be None.
    name : str
        The strategy's.
    server_round, replies : int
        The round, and how many replies there were.

    Raises
    ------
    RunError
        If there are no arrays, or it is something else than a pair of records.
    """
    match result:
        case None | (None, _):
            raise RunError(
                f"strategy.name: {name} made nothing of the {replies} replies of round "
                f"{server_round}"
            )
        case (ArrayRecord() as arrays, MetricRecord() | None as metrics):
            return arrays, MetricRecord() if metrics is None else metrics
    raise RunError(
        f"strategy.name: {name}: expected its aggregate_train to return an ArrayRecord and a "
        f"MetricRecord; found {_kinds(result)}, in round {server_round}"
    )


def _kinds(result: Any) -> str:
    """Return the types of what is in a tuple, or that of anything else."""
    parts = result if isinstance(result, tuple) else (result,)
    return ", ".join(type(part).__name__ for part in parts) or "nothing"


def model_of(
    arrays: ArrayRecord, before: ArrayRecord, alive: Iterable[str], name: str, server_round: int
) -> tuple[Weights, Alphas]:
    """Return the weights and alphas of a record that a strategy has made.

    Parameters
    ----------
    arrays, before : ArrayRecord
        The global model after and before the round.
    alive : iterable of str
        The keys of those arrays that must still be there.
    name : str
        The strategy's.
    server_round : int
        The round.

    Raises
    ------
    RunError
        If an array is missing, new, of another shape, or not finite.
    """
    when = f"in round {server_round}"
    if missing := [key for key in alive if key not in arrays]:
        raise RunError(f"strategy.name: {name} lost {missing[0]}, which is alive, {when}")
    by_name = wire.from_record(arrays)
    shapes = {key: array.shape for key, array in before.items()}
    for key, array in by_name.items():
        if key not in shapes:
            raise RunError(f"strategy.name: {name} made {key}, which was not there before, {when}")
        if array.shape != tuple(shapes[key]):
            raise RunError(
                f"strategy.name: {name} made {key} of the shape {array.shape}; expected "
                f"{tuple(shapes[key])}, {when}"
            )
        if not np.isfinite(array).all():
            raise RunError(
                f"strategy.options: {name} made {key} NaN or infinite of finite replies, {when}"
            )
    return wire.from_arrays(by_name)
