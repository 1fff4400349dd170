"""What a strategy makes of the replies, checked before it becomes the global model."""

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


def finite(arrays: ArrayRecord, name: str, server_round: int) -> tuple[Weights, Alphas]:
    """Return the weights and alphas of a record.

    Raises
    ------
    RunError
        If the strategy of that name has ruined one.
    """
    by_name = wire.from_record(arrays)
    for key, array in by_name.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"strategy.options: {name} made {key} NaN or infinite of finite "
                f"replies, in round {server_round}"
            )
    return wire.from_arrays(by_name)
