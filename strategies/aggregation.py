"""Rules that turn the arrays of several clients into one."""

from collections.abc import Callable, Sequence
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
