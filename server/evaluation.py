"""What the server measures: the global model on the global test set, and the clients' accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

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


def evaluate_supernet(
    experiment: Experiment, relaxed: Relaxed, weights: Weights, alphas: Alphas
) -> tuple[float, float]:
    """Return loss and accuracy of the supernet, without noise, on the global test set."""
    weights = {name: tensor.to(experiment.device) for name, tensor in weights.items()}
    alphas = alphas.to(experiment.device)
    return evaluate(
        lambda images: relaxed.predict(weights, alphas, images),
        experiment.batches(experiment.dataset.test),
    )


def evaluate_network(experiment: Experiment, genotype: Genotype, weights: Weights) -> float:
    """Return the accuracy of a derived network on the global test set.

    Raises
    ------
    GenotypeError
        If the weights are not those of the genotype.
    """
    network = genotype.network()
    load_weights(network, weights)
    network.to(experiment.device)
    return evaluate(network, experiment.batches(experiment.dataset.test))[1]


def evaluate_clients(
    grid: PartitionGrid, arrays: ArrayRecord, server_round: int, config: dict[str, Any]
) -> ClientAccuracy | None:
    """Ask all clients of a grid for their accuracy before and after adaptation.

    The strategy has no part in it: whatever trained the arrays, they are measured alike. None if
    no client gave a good reply.
    """
    config = {**config, "server-round": server_round}
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(config)})
    messages = [Message(content, client, MessageType.EVALUATE) for client in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    if not replies:
        return None
    metrics = [reply.content.metric_records["metrics"] for reply in replies]
    before, after = (
        [float(m[key]) for m in metrics]  # type: ignore[arg-type]
        for key in ("accuracy-before", "accuracy-after")
    )
    return ClientAccuracy(Spread.of(before), Spread.of(after))


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
