"""A client's own batches: drawn from its support and query parts, never from its test part."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from experiments.experiment import Experiment
from experiments.randomness import rng


def batches(
    experiment: Experiment, indices: np.ndarray[Any, Any], server_round: int, client: int, part: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, every image once before any is seen again.

    Parameters
    ----------
    experiment : Experiment
        Data, batch size and seed.
    indices : array of int
        The images of the part; fewer than a batch make a smaller batch.
    server_round, client : int
        With the seed and the part they fix the order.
    part : {"support", "query"}
        What the batches are for.
    """
    generator = rng(f"{part} batches", experiment.settings.seed, server_round, client)
    size = min(experiment.settings.client.batch_size, len(indices))
    while True:
        order = generator.permutation(indices)
        for start in range(0, len(order) - size + 1, size):
            yield experiment.batch(experiment.dataset.train, np.sort(order[start : start + size]))
