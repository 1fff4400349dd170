"""The clients of an experiment: views of some of them, and what is said of those left out."""

import re
import sys
from collections.abc import Sequence
from functools import partial

from flwr.serverapp import Grid

from fedmetanas.experiments.console import say
from fedmetanas.experiments.experiment import Experiment

from .nodes import Nodes
from .partition_grid import PartitionGrid
from .replies import LeftOut

ADDRESS = re.compile(r"0x[0-9a-f]+")  # of an object, as Python writes it
TRACEBACKS = 100  # shown in a run at most


class Clients:
    """The clients of an experiment, on the grid of a run.

    Parameters
    ----------
    grid : Grid
        Flower's grid of the run.
    experiment : Experiment
        For their names, and for how long they may take.
    nodes : Nodes
        Which node plays a client.
    """

    def __init__(self, grid: Grid, experiment: Experiment, nodes: Nodes) -> None:
        self.grid = grid
        self.experiment = experiment
        self.nodes = nodes
        self.tracebacks: set[str] = set()  # that were shown; each is once, and not very many are

    def view(self, partitions: Sequence[int], server_round: int, needed: int = 0) -> PartitionGrid:
        """Return a view of some, the largest first: none is left to wait for at the end."""
        return PartitionGrid(
            self.grid,
            self.nodes,
            sorted(partitions, key=lambda client: -self.nodes.known(client).images),
            self.experiment.settings.engine.timeout,
            needed,
            partial(self._report, server_round),
        )

    def _report(self, server_round: int, left: LeftOut, trace: str) -> None:
        """Say that a reply is left out, on the console."""
        name = self.nodes.known(left.client).name
        words = f"round {server_round}: {name} left out of {left.stage}: "
        same = ADDRESS.sub("", trace)  # two of the same kind of fault differ in these
        is_new = same not in self.tracebacks and len(self.tracebacks) < TRACEBACKS
        if trace and is_new:
            self.tracebacks.add(same)
        shown = trace if trace and is_new else left.reason
        say(words + shown.strip(), stream=sys.stderr)
