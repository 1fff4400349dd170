"""Rules that turn the arrays of several clients into one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

AnyArray = np.ndarray[Any, Any]
#: From the arrays of clients, which come one at a time, and their numbers of examples.
Rule = Callable[[Iterable[AnyArray], Sequence[float]], AnyArray]


def weighted_mean(arrays: Iterable[AnyArray], examples: Sequence[float]) -> AnyArray:
    """Return sum n_k x_k / sum n_k (FedAvg: McMahan et al., 2017, https://arxiv.org/abs/1602.05629).

    Summed in float64 in the order given, returned in the type of the first array.
    """
    shares = np.asarray(examples, dtype=np.float64) / np.sum(examples, dtype=np.float64)
    pairs = zip(arrays, shares, strict=True)
    first, share = next(pairs)
    total: AnyArray = share * first
    term = np.empty_like(total)
    for array, share in pairs:
        total += np.multiply(array, share, out=term)
    result: AnyArray = total.astype(first.dtype)
    return result


def mean(arrays: Iterable[AnyArray], examples: Sequence[float]) -> AnyArray:
    """Return the mean in which every client counts alike."""
    return weighted_mean(arrays, [1.0] * len(examples))


def median(arrays: Iterable[AnyArray], examples: Sequence[float]) -> AnyArray:
    """Return the median of every entry: one client among many cannot move it far."""
    stacked = np.stack(list(arrays))
    result: AnyArray = np.median(stacked, axis=0).astype(stacked.dtype)
    return result


RULES: dict[str, Rule] = {"weighted-mean": weighted_mean, "mean": mean, "median": median}


def aggregate(
    rule: Rule,
    like: Mapping[str, AnyArray],
    numbers: Iterable[AnyArray],
    examples: Sequence[float],
) -> dict[str, AnyArray]:
    """Apply a rule to some of the clients' arrays, to all their numbers at once.

    Parameters
    ----------
    rule : callable
        Must treat each number alike.
    like : mapping of str to array
        Keys, shapes and types of the results.
    numbers : iterable of array
        Those of each client: all arrays, in the order of the keys, one after the other.
    examples : sequence of float
        Number of training examples of each client.
    """
    # One by one, the calls for many small arrays take longer than the sums.
    ends = np.cumsum([array.size for array in like.values()])
    parts = np.split(rule(numbers, examples), ends[:-1])
    return {
        key: part.reshape(array.shape).astype(array.dtype, copy=False)
        for (key, array), part in zip(like.items(), parts, strict=True)
    }
