"""What is measured: the global model on the global test set, and by the clients on theirs.

Where the server has no images, the accuracy of the global model is that of the clients: of all
their test images together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedmetanas.experiments.data.registry import Images
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.search_space.alphas import Alphas, Mask
from fedmetanas.search_space.genotype import Genotype, load_weights
from fedmetanas.search_space.prediction import Relaxed, evaluate
from fedmetanas.search_space.supernet import Weights, alive_names

from .partition_grid import PartitionGrid


@dataclass(frozen=True)
class Spread:
    """Accuracy over clients, each counted alike, in [0, 1]."""

    mean: float
    std: float
    worst_tenth: float

    @staticmethod
    def of(accuracies: Sequence[float]) -> "Spread":
        """Return mean, standard deviation and the mean of the worst tenth (at least one client)."""
        ordered = np.sort(np.asarray(accuracies, dtype=np.float64))
        worst = ordered[: max(1, len(ordered) // 10)]
        return Spread(float(ordered.mean()), float(ordered.std()), float(worst.mean()))


@dataclass(frozen=True)
class ClientAccuracy:
    """Accuracy of some clients on their test parts, before and after adaptation."""

    before: Spread
    after: Spread


@dataclass(frozen=True)
class Measured:
    """What one client says of the global model, on its own test part.

    Attributes
    ----------
    client : int
        Its partition id.
    images : int
        Of its test part.
    loss : float
        Mean cross-entropy before adaptation.
    before, after : float
        Accuracy before and after adaptation.
    """

    client: int
    images: int
    loss: float
    before: float
    after: float


def spread_of(measured: Sequence[Measured]) -> ClientAccuracy | None:
    """Return the accuracy over clients, each counted alike; None without any."""
    if not measured:
        return None
    return ClientAccuracy(
        Spread.of([one.before for one in measured]), Spread.of([one.after for one in measured])
    )


def pooled(measured: Sequence[Measured]) -> tuple[float, float] | None:
    """Return loss and accuracy over all test images of the clients together; None without any."""
    images = sum(one.images for one in measured)
    if not images:
        return None
    loss = math.fsum(one.loss * one.images for one in measured) / images
    # An accuracy is a number of right images over all: as whole numbers they add up exactly.
    right = sum(round(one.before * one.images) for one in measured)
    return loss, right / images


def evaluate_supernet(
    experiment: Experiment, test: Images, relaxed: Relaxed, weights: Weights, alphas: Alphas
) -> tuple[float, float]:
    """Return loss and accuracy of the supernet, without noise, on the global test set."""
    weights = {name: tensor.to(experiment.device) for name, tensor in weights.items()}
    alphas = alphas.to(experiment.device)
    return evaluate(
        lambda images: relaxed.predict(weights, alphas, images),
        experiment.batches(test),
    )


def evaluate_network(
    experiment: Experiment, test: Images, genotype: Genotype, weights: Weights
) -> float:
    """Return the accuracy of a derived network on the global test set.

    Raises
    ------
    GenotypeError
        If the weights are not those of the genotype.
    """
    network = genotype.network()
    load_weights(network, weights)
    network.to(experiment.device)
    return evaluate(network, experiment.batches(test))[1]


def evaluate_clients(
    grid: PartitionGrid, arrays: ArrayRecord, server_round: int, config: Mapping[str, Any]
) -> list[Measured]:
    """Ask all clients of a grid for their accuracy before and after adaptation.

    The strategy has no part in it: whatever trained the arrays, they are measured alike. Clients
    without a good reply are not in the list.
    """
    content = RecordDict(
        {"arrays": arrays, "config": ConfigRecord({**config, "server-round": server_round})}
    )
    messages = [Message(content, client, MessageType.EVALUATE) for client in grid.get_node_ids()]
    return [_measured(reply) for reply in grid.send_and_receive(messages)]


def _measured(reply: Message) -> Measured:
    metrics = reply.content.metric_records["metrics"]
    loss, before, after = (
        float(metrics[key])  # type: ignore[arg-type]
        for key in ("loss", "accuracy-before", "accuracy-after")
    )
    images = int(metrics["num-examples"])  # type: ignore[arg-type]
    return Measured(reply.metadata.src_node_id, images, loss, before, after)


def searched(experiment: Experiment, weights: Weights, mask: Mask) -> tuple[Genotype, Weights]:
    """Return the genotype of a one-hot mask and the weights of its network.

    Raises
    ------
    ValueError
        If the mask is not one-hot.
    """
    genotype = Genotype.from_mask(experiment.shape, mask)
    names = alive_names(experiment.shape, list(weights), mask.alive(experiment.topology))
    return genotype, {name: weights[name] for name in names}
