"""Rules that turn the arrays of several clients into one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

AnyArray = np.ndarray[Any, Any]
Rule = Callable[[Sequence[AnyArray], Sequence[float]], AnyArray]


def weighted_mean(arrays: Sequence[AnyArray], examples: Sequence[float]) -> AnyArray:
    """Return sum n_k x_k / sum n_k (FedAvg: McMahan et al., 2017, https://arxiv.org/abs/1602.05629).

    Summed in float64 in the order given, returned in the type of the first array.
    """
    shares = np.asarray(examples, dtype=np.float64) / np.sum(examples, dtype=np.float64)
    total = np.zeros(arrays[0].shape, dtype=np.float64)
    for array, share in zip(arrays, shares, strict=True):
        total += share * array
    return total.astype(arrays[0].dtype)


def mean(arrays: Sequence[AnyArray], examples: Sequence[float]) -> AnyArray:
    """Return the mean in which every client counts alike."""
    return weighted_mean(arrays, [1.0] * len(examples))


def median(arrays: Sequence[AnyArray], examples: Sequence[float]) -> AnyArray:
    """Return the median of every entry: one client among many cannot move it far."""
    result: AnyArray = np.median(np.stack(arrays), axis=0).astype(arrays[0].dtype)
    return result


RULES: dict[str, Rule] = {"weighted-mean": weighted_mean, "mean": mean, "median": median}


def aggregate(
    rule: Rule,
    keys: Iterable[str],
    clients: Sequence[Mapping[str, AnyArray]],
    examples: Sequence[float],
) -> dict[str, AnyArray]:
    """Apply a rule to some of the clients' arrays, to all entries at once.

    Parameters
    ----------
    rule : callable
        Must treat each entry of its arrays alike.
    keys : iterable of str
        Which arrays; every client has them, of one shape.
    clients : sequence of mapping
        The arrays of each client by key.
    examples : sequence of float
        Number of training examples of each client.
    """
    like = {key: clients[0][key] for key in keys}
    if not like:
        return {}
    # One by one, the calls for many small arrays take longer than the sums.
    flat = [np.concatenate([client[key].ravel() for key in like]) for client in clients]
    ends = np.cumsum([array.size for array in like.values()])
    parts = np.split(rule(flat, examples), ends[:-1])
    return {
        key: part.reshape(array.shape).astype(array.dtype, copy=False)
        for (key, array), part in zip(like.items(), parts, strict=True)
    }
