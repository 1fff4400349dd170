"""Partitions: which client holds which images, and what it uses them for.

The partitioners are those of Flower Datasets. The Dirichlet one follows Yurochkin et al.,
"Bayesian Nonparametric Federated Learning of Neural Networks", 2019,
https://arxiv.org/abs/1905.12022; the pathological one Li et al., "Federated Learning on Non-IID
Data Silos: An Experimental Study", 2021, https://arxiv.org/abs/2102.02079.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmetanas.errors import DataError
from fedmetanas.experiments.randomness import rng

Indices = npt.NDArray[np.int64]

PARTITION_PURPOSE = 1  # keep the random numbers of the two functions below apart
SPLIT_PURPOSE = 2
PARTITION_ATTEMPTS = 5  # with Dirichlet, each of them is eleven draws inside the library
SMALLEST_CLIENT = 3  # images: one to support, one to query, one to test


@dataclass(frozen=True, eq=False)
class Split:
    """What a client uses its images for: sorted int64 indices, none of them empty.

    Support and query are disjoint. The test part is of the same images and disjoint from both, or,
    at a site, all of its test images.
    """

    support: Indices
    query: Indices
    test: Indices

    @property
    def size(self) -> int:
        """Number of images in all."""
        return len(self.support) + len(self.query) + len(self.test)


@dataclass(frozen=True)
class Plan:
    """How to spread images over clients.

    Attributes
    ----------
    partitions : int
        Number of clients, at least 1.
    kind : str
        ``iid``: alike, sizes differ by one at most; ``dirichlet``: the shares of a class follow a
        Dirichlet distribution; ``pathological``: every client has `classes_per_client` classes.
    concentration : float
        Of the Dirichlet distribution, greater than 0; the smaller, the less alike the clients.
    classes_per_client : int
        Of the pathological kind, at least 1.
    min_client_size : int
        Fewest images of a client.
    seed : int
        The same seed gives the same result.
    """

    partitions: int
    kind: str
    concentration: float
    classes_per_client: int
    min_client_size: int
    seed: int


def partition(labels: npt.NDArray[np.int64], plan: Plan) -> tuple[Indices, ...]:
    """Spread images over clients.

    Parameters
    ----------
    labels : np.ndarray
        int64, shape (n,).
    plan : Plan
        How.

    Returns
    -------
    tuple of np.ndarray
        For every partition id its indices into `labels`: int64, sorted, disjoint, and together
        0 to n - 1.

    Raises
    ------
    DataError
        If there is no such partition, or a few draws found none.
    """
    if len(labels) < plan.partitions * plan.min_client_size:
        raise DataError(
            f"{len(labels)} training images are too few for {plan.partitions} clients of at least "
            f"{plan.min_client_size}: lower data.min_client_size, clients or held_out_clients"
        )
    if plan.kind == "pathological":
        _check_classes(len(np.unique(labels)), plan)
    for attempt in range(PARTITION_ATTEMPTS):
        sequence = np.random.SeedSequence([plan.seed, PARTITION_PURPOSE, attempt])
        order = np.random.default_rng(sequence).permutation(len(labels))
        partitioner = _partitioner(plan, seed=int(sequence.generate_state(1)[0]))
        parts = _run(partitioner, labels, order)
        if _is_sound(parts, len(labels), plan.min_client_size):
            return parts
    raise DataError(
        f"no {plan.kind} partition of {len(labels)} images over {plan.partitions} clients with at "
        f"least {plan.min_client_size} images each was found in {PARTITION_ATTEMPTS} attempts: "
        + _advice(plan)
        + ", or lower data.min_client_size, clients or held_out_clients"
    )


def split(indices: Indices, support: float, query: float, seed: int, partition_id: int) -> Split:
    """Split a client's images at random into its support, query and test part.

    Parameters
    ----------
    indices : np.ndarray
        int64, shape (n,), at least 3.
    support, query : float
        Shares greater than 0 with a sum less than 1; the rest is the test part. Every part gets
        one image at least.
    seed, partition_id : int
        What the random numbers are a function of.

    Raises
    ------
    DataError
        If there are fewer than 3 images.
    """
    count = len(indices)
    if count < SMALLEST_CLIENT:
        raise DataError(
            f"client {partition_id} has {count} images, at least {SMALLEST_CLIENT} are needed; "
            "raise data.min_client_size"
        )
    to_support = min(max(round(support * count), 1), count - 2)
    to_query = min(max(round(query * count), 1), count - to_support - 1)
    sequence = np.random.SeedSequence([seed, partition_id, SPLIT_PURPOSE])
    shuffled = np.random.default_rng(sequence).permutation(indices)
    parts = np.split(shuffled, [to_support, to_support + to_query])
    return Split(*(np.sort(part) for part in parts))


def split_at_site(train: int, test: int, share: float, seed: int, client: int) -> Split:
    """Split a site's training images at random into support and query; its test images are apart.

    Parameters
    ----------
    train, test : int
        How many images of each the site has; at least 2 and 1.
    share : float
        Of the training images, for support; greater than 0 and less than 1. Both parts get one
        image at least.
    seed, client : int
        What the random numbers are a function of.

    Raises
    ------
    DataError
        If there are fewer than 2 training images.
    """
    if train < SMALLEST_CLIENT - 1:
        raise DataError(
            f"{train} training images are too few: one is needed to adapt to and one to learn from"
        )
    to_support = min(max(round(share * train), 1), train - 1)
    shuffled = rng("split at a site", seed, partition_id=client).permutation(train)
    support, query = np.split(shuffled, [to_support])
    return Split(np.sort(support), np.sort(query), np.arange(test))


def _check_classes(classes: int, plan: Plan) -> None:
    """Refuse numbers of classes that no pathological partition can have."""
    if plan.classes_per_client > classes:
        raise DataError(
            f"data.classes_per_client: the dataset has {classes} classes; found "
            f"{plan.classes_per_client}"
        )
    if plan.partitions * plan.classes_per_client < classes:
        raise DataError(
            f"data.classes_per_client: {plan.partitions} clients with {plan.classes_per_client} "
            f"each leave some of the {classes} classes to nobody; at least "
            f"{-(-classes // plan.partitions)} or more clients are needed"
        )


def _partitioner(plan: Plan, seed: int) -> Any:
    """Make the partitioner of Flower Datasets for a kind."""
    # Imported here because it takes seconds, and not all who import this module partition.
    from flwr_datasets import partitioner

    if plan.kind == "iid":
        return partitioner.IidPartitioner(plan.partitions)
    if plan.kind == "dirichlet":
        return partitioner.DirichletPartitioner(
            plan.partitions,
            "label",
            alpha=plan.concentration,
            min_partition_size=plan.min_client_size,
            self_balancing=False,
            seed=seed,
        )
    if plan.kind == "pathological":
        return partitioner.PathologicalPartitioner(
            plan.partitions,
            "label",
            plan.classes_per_client,
            class_assignment_mode="first-deterministic",
            seed=seed,
        )
    raise DataError(f"data.partition: expected iid, dirichlet or pathological; found {plan.kind!r}")


def _run(partitioner: Any, labels: npt.NDArray[np.int64], order: Indices) -> tuple[Indices, ...]:
    """Partition the images taken in `order`; empty if the partitioner gives up.

    The order must be random: the partitioners cut a dataset, or a class, into neighbouring pieces.
    """
    from datasets import Dataset

    # In the arrow format a column is read at once; in any other, element by element.
    table = Dataset.from_dict({"label": labels[order], "index": order}).with_format("arrow")
    partitioner.dataset = table
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for every draw that is thrown away
            return tuple(
                np.sort(partitioner.load_partition(number)["index"].to_numpy())
                for number in range(partitioner.num_partitions)
            )
    except ValueError:
        return ()


def _is_sound(parts: tuple[Indices, ...], count: int, min_client_size: int) -> bool:
    """Whether all images are given out, each once, and no client has too few."""
    return (
        bool(parts)
        and min(len(part) for part in parts) >= min_client_size
        and np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    )


def _advice(plan: Plan) -> str:
    if plan.kind == "dirichlet":
        return f"raise data.concentration={plan.concentration}"
    return f"change data.classes_per_client={plan.classes_per_client}"
