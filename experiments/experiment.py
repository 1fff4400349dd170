"""An experiment, opened: its settings, data, clients' parts and the shape of its supernet.

Server and clients each open it once in a process and reuse it for every message.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.data.cache import open_dataset
from fedmetanas.experiments.data.partition_cache import open_partition
from fedmetanas.experiments.data.partitions import Plan, Split, split
from fedmetanas.experiments.data.registry import Dataset, Images, Source
from fedmetanas.search_space.alphas import Alphas, Mask, Topology
from fedmetanas.search_space.genotype import MOST_WEIGHTS
from fedmetanas.search_space.kernels.transfer import to_device
from fedmetanas.search_space.prediction import Relaxed
from fedmetanas.search_space.relaxation import TemperatureSchedule
from fedmetanas.search_space.supernet import (
    Network,
    NetworkShape,
    Weights,
    build_supernet,
    initial_weights,
)
from fedmetanas.strategies.fedmetanas import SearchPlan

from .randomness import rng, torch_generator
from .settings import DataSettings, Settings, from_run_config
from .surroundings import settle

SIMULATED = "simulated"  # a key of the inline engine's node config
FITTING_SIDE = 64  # pixels of a photo; larger ones take hours
MOST_VALUES = 5_000_000_000  # at 10 bytes each; a step at DARTS' size, 64 images, has 0.8 billion


@dataclass(frozen=True)
class Experiment:
    """What server and clients share.

    Attributes
    ----------
    settings : Settings
        All settings.
    dataset : Dataset
        Images and labels, memory-mapped.
    parts : tuple of Split
        For every client its support, query and test images, as indices into the training images.
    supernet : Network
        Without weights.
    shape : NetworkShape
        The supernet's shape.
    device : torch.device
        Where to compute.
    """

    settings: Settings
    dataset: Dataset
    parts: tuple[Split, ...]
    supernet: Network
    shape: NetworkShape
    device: torch.device

    @property
    def topology(self) -> Topology:
        """Nodes and candidate operations of a cell."""
        return self.shape.topology

    @property
    def plan(self) -> SearchPlan:
        """What a strategy must know."""
        search = self.settings.search
        return SearchPlan(
            self.shape,
            TemperatureSchedule(
                search.tau_schedule, search.tau_start, search.tau_end, search.tau_rounds
            ),
            search.operation_threshold,
            search.pair_threshold,
            search.weight_free_limit,
            search.warmup_rounds,
            self.settings.rounds,
            partial(torch_generator, seed=self.settings.seed),
        )

    def relaxed(self, mask: Mask, tau: float, relaxation: str | None = None) -> Relaxed:
        """Return the supernet at a mask and a temperature."""
        relaxation = self.settings.search.relaxation if relaxation is None else relaxation
        return Relaxed(self.supernet, self.shape, mask, tau, relaxation, self.device)

    def initial_parameters(self) -> tuple[Weights, Alphas]:
        """Draw the weights and alphas a search starts from."""
        generator = torch_generator("initial parameters", self.settings.seed)
        weights = initial_weights(self.supernet, generator)
        return weights, Alphas.initial(self.topology, generator)

    def batch(self, images: Images, indices: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), scaled to [-1, 1], and labels (B,) on the device."""
        pixels = to_device(torch.from_numpy(images.images[indices]), self.device)
        scaled = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        return scaled, to_device(torch.from_numpy(images.labels[indices]), self.device)

    def batches(
        self, images: Images, indices: np.ndarray[Any, Any] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of all the images, or those of some indices, for evaluation.

        Their order is drawn, always the same: batch normalisation uses the statistics of the batch,
        and files often come sorted by class. The batches are of equal size, but for one image.
        """
        indices = np.arange(len(images.labels)) if indices is None else indices
        order = rng("evaluation order", seed=0).permutation(indices)
        for chosen in np.array_split(order, -(-len(order) // self.settings.evaluation.batch_size)):
            yield self.batch(images, np.sort(chosen))


def check_device(key: str, device: str) -> None:
    """Raise SettingsError if a device was asked for, by that key, that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"{key}: cuda was asked for, but PyTorch finds no CUDA device")


def source_of(data: DataSettings) -> Source:
    """Return which dataset some settings mean, and how it is read."""
    return Source(
        data.dataset,
        Path(data.root),
        data.download,
        data.image_size,
        data.resize,
        data.channels,
        data.test_share,
        data.skip_broken,
        data.classes,
    )


def open_data(settings: Settings) -> Dataset:
    """Open the dataset of some settings, decoding it into the cache if need be.

    Raises
    ------
    DataError
        If it is missing or damaged.
    SettingsError
        If it has fewer training images than were asked for.
    """
    data = settings.data
    dataset = open_dataset(source_of(data), data.cache)
    if data.train_images is None:
        return dataset
    return replace(dataset, train=_some(dataset.train, data.train_images))


def _some(images: Images, count: int) -> Images:
    """Draw so many of some images, the same ones whatever the seed of a run."""
    known = len(images.labels)
    if count > known:
        raise SettingsError(f"data.train_images: there are {known} training images; found {count}")
    chosen = np.sort(rng("train images", seed=0).choice(known, count, replace=False))
    return Images(images.images[chosen], images.labels[chosen])


def open_experiment(settings: Settings) -> Experiment:
    """Open an experiment; use :func:`experiment_of` where one is opened again and again.

    Raises
    ------
    SettingsError, DataError
        If the settings do not fit the data or the machine.
    """
    settle()
    check_device("engine.device", settings.engine.device)
    dataset = open_data(settings)
    search, data = settings.search, settings.data
    shape = NetworkShape(
        in_channels=dataset.train.images.shape[3],
        classes=len(dataset.classes),
        channels=search.channels,
        layers=search.layers,
        topology=Topology(search.nodes, search.operations),
        norm=search.norm,
    )
    plan = Plan(
        settings.partitions,
        data.partition,
        data.concentration,
        data.classes_per_client,
        data.min_client_size,
        settings.seed,
    )
    parts = open_partition(dataset.train.labels, plan, data.cache)
    splits = tuple(
        split(indices, data.support, data.query, settings.seed, partition_id)
        for partition_id, indices in enumerate(parts)
    )
    device = torch.device(settings.engine.device)
    supernet = build_supernet(shape)
    _refuse_enormous(supernet, settings, dataset.train.images)
    return Experiment(settings, dataset, splits, supernet, shape, device)


def _refuse_enormous(supernet: Network, settings: Settings, images: np.ndarray[Any, Any]) -> None:
    """Raise if the supernet, or a step of training or of evaluating it, would fill any memory."""
    weights = sum(parameter.numel() for parameter in supernet.parameters())
    if weights > MOST_WEIGHTS:
        raise SettingsError(
            f"search.channels: the supernet would have {weights:,} weights; expected at most "
            f"{MOST_WEIGHTS:,}"
        )
    client, search = settings.client, settings.search
    an_image = images[0, ..., 0].size * search.channels * search.candidates
    # Gradients of gradients: all steps are kept, each twice as large.
    through = client.second_order and client.inner_steps > 0
    steps = 2 * (client.inner_steps + 1) if through else 1
    lower = "client.batch_size, client.inner_steps" if through else "client.batch_size"
    trained = steps * (client.batch_size * an_image + weights)
    evaluated = settings.evaluation.batch_size * an_image // search.layers  # no cell is kept
    for keys, values in ((lower, trained), ("evaluation.batch_size", evaluated)):
        if values > MOST_VALUES:
            _refuse_large_images(settings, images, values)
            raise SettingsError(
                f"{keys}: a step of the supernet would keep some {values:,} numbers; expected at "
                f"most {MOST_VALUES:,}; lower {keys}, the sizes in search or that of the images"
            )


def _refuse_large_images(settings: Settings, images: np.ndarray[Any, Any], values: int) -> None:
    """Raise if a step that keeps so many values would be possible with photos made smaller."""
    height, width = images.shape[1:3]
    small = FITTING_SIDE**2 / (height * width)
    if settings.data.dataset == "imagefolder" and small < 1 and values * small <= MOST_VALUES:
        raise SettingsError(
            f"data.image_size: images of {width}x{height} pixels are too large: a step of the "
            f"supernet would keep some {values:,} numbers; expected at most {MOST_VALUES:,}; set "
            f"data.image_size={FITTING_SIDE} or less"
        )


def experiment_of(
    run_config: Mapping[str, Any], node_config: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment of a run, opened once in a process.

    Parameters
    ----------
    run_config : mapping
        Flower's, see :func:`fedmetanas.experiments.settings.from_run_config`.
    node_config : mapping, optional
        A client's. On a machine of its own it says where its data lies (``data-dir``), and nothing
        that was sent names a path there. The nodes of a simulation share the server's machine
        and its settings.

    Raises
    ------
    SettingsError, DataError
        If the settings do not fit the data or the machine, or a client has no ``data-dir``.
    """
    own = node_config or {}
    shared = node_config is None or ("data-dir" not in own and _is_simulated(own))
    data_dir = None if shared else str(own.get("data-dir", ""))
    return _opened(tuple(sorted(run_config.items())), data_dir)


def _is_simulated(node_config: Mapping[str, Any]) -> bool:
    """Return whether a node is one of a simulation: of the inline engine, or a worker of Ray's."""
    ray = sys.modules.get("ray")
    return SIMULATED in node_config or (ray is not None and ray.is_initialized())


@lru_cache(maxsize=1)
def _opened(run_config: tuple[tuple[str, Any], ...], data_dir: str | None) -> Experiment:
    settings = from_run_config(dict(run_config))
    if data_dir is not None:
        if not data_dir and settings.data.dataset != "digits":  # which come with scikit-learn
            raise SettingsError("node config: expected data-dir, the folder of this client's data")
        data = replace(settings.data, root=data_dir, cache="", download=False)
        settings = replace(settings, data=data)
    return open_experiment(settings)


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
