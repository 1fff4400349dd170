"""A client's own batches: drawn from its support and query parts, never from its test part."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.randomness import rng
from fedmetanas.search_space.kernels.transfer import to_device


def batches(
    experiment: Experiment, indices: np.ndarray[Any, Any], server_round: int, client: int, part: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, every image as often as any other, but for one.

    Parameters
    ----------
    experiment : Experiment
        Data, batch size and seed.
    indices : array of int
        The images of the part; fewer than a batch make a smaller batch.
    server_round, client : int
        With the seed and the part they fix the order.
    part : {"support", "query", "train"}
        What the batches are for.
    """
    settings = experiment.settings
    generator = rng(f"{part} batches", settings.seed, server_round, client)
    size = min(settings.client.batch_size, len(indices))
    train = experiment.client(client).train
    waiting = indices[:0]
    while True:
        if len(waiting) < size:
            order = generator.permutation(indices)
            again = np.isin(order, waiting)  # last in their turn: no image twice in a batch
            waiting = np.concatenate([waiting, order[~again], order[again]])
        chosen, waiting = waiting[:size], waiting[size:]
        images, labels = experiment.batch(train, np.sort(chosen))
        yield augmented(images, settings.data.augment, generator), labels


def augmented(images: Tensor, augment: str, generator: np.random.Generator) -> Tensor:
    """Return images moved at random, each on its own, as DARTS does on CIFAR.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), black being -1.
    augment : {"none", "shift", "shift-flip"}
        ``shift`` moves by up to an eighth of the side in each direction (4 pixels of 32) and fills
        up with black; ``shift-flip`` also mirrors every second image, on average, left to right.
    generator : numpy.random.Generator
        Source of the randomness.
    """
    if augment == "none":
        return images
    count, channels, height, width = images.shape
    reach = min(height, width) // 8
    padded = F.pad(images, (reach, reach, reach, reach), value=-1.0)
    top, left = torch.from_numpy(generator.integers(0, 2 * reach + 1, (2, count)))
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    if augment == "shift-flip":
        flip = torch.from_numpy(generator.random(count) < 0.5)
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    device = images.device
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        to_device(rows, device)[:, None, :, None],
        to_device(columns, device)[:, None, None, :],
    ]
