"""Which node plays a client, and what the server knows of it.

In a simulation every node can play every client. On machines of their own each node is one client:
see :mod:`fedmetanas.server.roster`.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from flwr.serverapp import Grid

from fedmetanas.errors import RunError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.settings import Settings

from .replies import LeftOut

PAUSE = (0.02, 1.0)  # seconds, the shortest and the longest
PAUSE_SHARE = 0.02  # of the wait so far; what a reply waits for at most


class ClientError(RunError):
    """Too few clients gave a good reply. The message names those left out, and why.

    Parameters
    ----------
    message : str
        One line.
    left_out : iterable of LeftOut
        Whose replies were left out.
    """

    def __init__(self, message: str, left_out: Iterable[LeftOut] = ()) -> None:
        super().__init__(message)
        self.left_out = list(left_out)


@dataclass(frozen=True)
class Known:
    """What the server knows of a client.

    Attributes
    ----------
    name : str
        What it is called.
    images : int
        How many it has in all; 0 if that is not known.
    examples : int
        As many images as a reply of it can be of.
    data : str
        A digest of its own images, to which it must keep; empty where all share one dataset.
    """

    name: str
    images: int
    examples: int
    data: str = ""


AWAY = "it is away"


class Nodes(ABC):
    """Which node plays a client."""

    @abstractmethod
    def find(self, clients: Iterable[int]) -> Mapping[int, int]:
        """Return the node of each of these clients that has one."""

    @abstractmethod
    def known(self, client: int) -> Known:
        """Return what is known of a client."""

    def absence(self, client: int) -> str:
        """Return why a client has no node."""
        return AWAY

    def digests(self) -> Mapping[str, str]:
        """Return the digest of the images of each site, by its name; empty where there are none."""
        return {}


class AnyNode(Nodes):
    """Every node plays every client.

    Parameters
    ----------
    grid : Grid
        The grid of the run.
    timeout : float
        Seconds to wait for nodes.
    min_nodes : int
        Nodes that must be connected.
    known : callable
        From a client to what is known of it.
    """

    def __init__(
        self, grid: Grid, timeout: float, min_nodes: int, known: Callable[[int], Known]
    ) -> None:
        self.grid = grid
        self.timeout = timeout
        self.min_nodes = min_nodes
        self._known = known

    def find(self, clients: Iterable[int]) -> Mapping[int, int]:
        """Return the node of each of these clients; wait until enough nodes are connected.

        Raises
        ------
        ClientError
            If they are too few when the time is over.
        """
        started = time.monotonic()
        said = ""
        while len(nodes := sorted(self.grid.get_node_ids())) < self.min_nodes:
            found = f"{len(nodes)} of {self.min_nodes} nodes connected (engine.min_nodes)"
            if time.monotonic() > started + self.timeout:
                raise ClientError(f"{found} within {self.timeout:g} s (engine.timeout)")
            if found != said:
                say(f"waiting: {found}", stream=sys.stderr)
                said = found
            pause(started)
        return {client: nodes[client % len(nodes)] for client in clients}

    def known(self, client: int) -> Known:
        """Return what is known of a client."""
        return self._known(client)


class SimulatedSites(AnyNode):
    """Every node plays every site, whose images lie on the one disk that all read."""

    def __init__(self, grid: Grid, experiment: Experiment) -> None:
        engine = experiment.settings.engine
        super().__init__(grid, engine.timeout, engine.min_nodes, cache(self._of))
        self.experiment = experiment

    def _of(self, client: int) -> Known:
        size = self.experiment.client(client).split.size
        name = name_of(self.experiment.settings, client)
        return Known(name, size, size, self.experiment.site(client).digest)

    def digests(self) -> Mapping[str, str]:
        """Return the digest of the images of each site, by its name."""
        known = [self.known(client) for client in range(self.experiment.settings.partitions)]
        return {one.name: one.data for one in known}


def name_of(settings: Settings, client: int) -> str:
    """Return what a client is called: by its name if it is a site."""
    names = (*settings.sites, *settings.held_out_sites)
    return names[client] if names else f"client {client}"


def simulated_nodes(grid: Grid, experiment: Experiment) -> AnyNode:
    """Return the nodes of a simulation: each plays any client, and all read the same disk."""
    dataset, engine = experiment.dataset, experiment.settings.engine
    if dataset is None:
        return SimulatedSites(grid, experiment)

    def known(client: int) -> Known:
        name = name_of(experiment.settings, client)
        return Known(name, experiment.parts[client].size, len(dataset.train.labels))

    return AnyNode(grid, engine.timeout, engine.min_nodes, known)


def pause(started: float) -> None:
    """Sleep until it is worth asking again: the longer the wait is already, the more rarely."""
    shortest, longest = PAUSE
    waited = time.monotonic() - started
    time.sleep(min(max(shortest, PAUSE_SHARE * waited), longest))
