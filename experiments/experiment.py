"""An experiment, opened: its settings, data, clients' parts and the shape of its supernet.

Server and clients each open it once in a process and reuse it for every message.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.data.partitions import Split
from fedmetanas.experiments.data.registry import Dataset, Images
from fedmetanas.search_space.alphas import Alphas, Mask, Topology
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

from .client_data import (
    ClientData,
    is_agreed,
    is_installed,
    open_data,
    open_site,
    open_test,
    site_data,
    spread,
)
from .limits import refuse_enormous
from .node import Node, check_node, node_of
from .randomness import rng, torch_generator
from .settings import Settings, from_run_config
from .surroundings import settle


@dataclass(frozen=True)
class Experiment:
    """What server and clients share.

    Attributes
    ----------
    settings : Settings
        All settings.
    dataset : Dataset or None
        Images and labels, memory-mapped; None where each site has its own.
    parts : tuple of Split
        For every client its support, query and test images, as indices into the training images;
        empty where each site has its own.
    image_shape : tuple of int
        Height and width of all images.
    supernet : Network
        Without weights.
    shape : NetworkShape
        The supernet's shape.
    device : torch.device
        Where to compute.
    folder : Path or None
        Of the images of the one site that this process is for.
    own_test : Images or None
        The server's own test set, where there is no common dataset.
    """

    settings: Settings
    dataset: Dataset | None
    parts: tuple[Split, ...]
    image_shape: tuple[int, int]
    supernet: Network
    shape: NetworkShape
    device: torch.device
    folder: Path | None = None
    own_test: Images | None = None

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

    @property
    def test(self) -> Images | None:
        """The global test set; None where only the sites have images."""
        return self.dataset.test if self.dataset else self.own_test

    def client(self, number: int) -> ClientData:
        """Return the images of a client.

        Raises
        ------
        DataError
            If they cannot be read where it is a site.
        """
        if self.dataset:
            return ClientData(self.dataset.train, self.dataset.train, self.parts[number])
        return site_data(self.site(number), self.settings, number)

    def site(self, number: int) -> Dataset:
        """Return the images of a site with the classes as they lie there."""
        settings = self.settings
        names = (*settings.sites, *settings.held_out_sites)
        return open_site(settings, self.folder or Path(settings.data.root) / names[number])

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


def open_experiment(settings: Settings, folder: Path | None = None) -> Experiment:
    """Open an experiment; use :func:`experiment_of` where one is opened again and again.

    Parameters
    ----------
    settings : Settings
        All settings.
    folder : Path, optional
        Of the images of the one site that this process is for.

    Raises
    ------
    SettingsError, DataError
        If the settings do not fit the data or the machine.
    """
    check_device("engine.device", settings.engine.device)
    device = torch.device(settings.engine.device)
    dataset = None if settings.sites else open_data(settings)
    return _open(settings, dataset, device, folder)


def open_on_server(settings: Settings) -> Experiment:
    """Open an experiment on a server whose nodes are machines of their own: without any image.

    Only what is installed with this project is opened, if that is what all learn from.

    Raises
    ------
    SettingsError
        If the settings do not fit together, or sites have not agreed; see :func:`is_agreed`.
    """
    if is_installed(settings):
        return open_experiment(settings)
    return _open(settings, None, torch.device("cpu"), None)


def _open(
    settings: Settings, dataset: Dataset | None, device: torch.device, folder: Path | None
) -> Experiment:
    settle()
    search = settings.search
    side, in_channels, classes = _seen(settings, dataset)
    shape = NetworkShape(
        in_channels=in_channels,
        classes=classes,
        channels=search.channels,
        layers=search.layers,
        topology=Topology(search.nodes, search.operations),
        norm=search.norm,
    )
    parts = spread(dataset, settings) if dataset else ()
    supernet = build_supernet(shape)
    refuse_enormous(supernet, settings, side)
    own_test = None if folder else open_test(settings)
    return Experiment(settings, dataset, parts, side, supernet, shape, device, folder, own_test)


def _seen(settings: Settings, dataset: Dataset | None) -> tuple[tuple[int, int], int, int]:
    """Return height and width of images, their channels and the number of classes.

    Raises
    ------
    SettingsError
        If sites have not agreed on them.
    """
    if dataset:
        _, height, width, channels = dataset.train.images.shape
        return (height, width), channels, len(dataset.classes)
    data = settings.data
    if data.image_size is None or data.channels is None or not is_agreed(settings):
        raise SettingsError(
            "sites must agree on data.classes (at least 2), data.image_size and data.channels; "
            "all three must be set"
        )
    if data.train_images is not None:
        raise SettingsError("data.train_images: a site uses all of its images; leave it out")
    return (data.image_size, data.image_size), data.channels, len(data.classes)


def experiment_of(
    run_config: Mapping[str, Any], node_config: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment of a run, opened once in a process.

    Parameters
    ----------
    run_config : mapping
        Flower's, see :func:`fedmetanas.experiments.settings.from_run_config`.
    node_config : mapping, optional
        A client's, see :func:`fedmetanas.experiments.node.node_of`. On a machine of its own it says
        where its images lie, and nothing that was sent names a path there. The nodes of a
        simulation share the server's machine and its settings.

    Raises
    ------
    SettingsError, DataError
        If the settings do not fit the data or the machine, or the node does not say what it must.
    """
    node = Node(virtual=True) if node_config is None else node_of(node_config)
    return _opened(tuple(sorted(run_config.items())), node)


@lru_cache(maxsize=1)
def _opened(run_config: tuple[tuple[str, Any], ...], node: Node) -> Experiment:
    settings = settings_at(node, dict(run_config))
    if not node.virtual:
        check_node(node, settings)
    return open_experiment(settings, node.folder if node.site else None)


def settings_at(node: Node, run_config: Mapping[str, Any]) -> Settings:
    """Return the settings of a run, as they are on a node.

    Raises
    ------
    SettingsError
        If a setting is wrong.
    """
    settings = from_run_config(run_config)
    if node.virtual:
        return settings
    root = str(node.folder or "")
    data = replace(settings.data, root=root, cache="", download=False)
    engine = replace(settings.engine, device=node.device or settings.engine.device)
    return replace(settings, data=data, engine=engine)
