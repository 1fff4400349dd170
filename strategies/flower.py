"""The one door to what Flower keeps private: all that it does not promise to leave as it is.

Each comment names the public way that a line stands for. The range of versions in
``pyproject.toml`` says which were tried.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

# Of what the public class Grid takes and returns; the package has no public name for it.
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "SIMULATION_MODULES",
    "Run",
    "StrategyRefusal",
    "array_of",
    "array_record",
    "config_record",
    "empty_run",
    "meets_machines",
    "name_message",
    "take_place_in_run",
    "valid_replies",
]

# Of ``flwr.serverapp.exception``, which lists the errors that a strategy ends a run with: the class
# that all have in common.
StrategyRefusal = AppExitException


#: Modules of Flower that log for a simulation, of which this project says itself what matters.
# The names of Flower's loggers, if it had several: all of its modules log as ``flwr``.
SIMULATION_MODULES = ("ray_actor", "vce_api", "logger")


FLOWERS_GRIDS = "flwr.superlink.grid"  # imported by whoever makes a grid of Flower's own


def meets_machines(grid: Grid) -> bool:
    """Return whether the nodes of a grid are machines of their own, and not a simulation's."""
    # Nothing public says so to a ServerApp. Importing this takes a second, of every client, too.
    if FLOWERS_GRIDS not in sys.modules:
        return False
    from flwr.superlink.grid.http_grid import HttpGrid

    return isinstance(grid, HttpGrid)


def take_place_in_run(run_id: int) -> None:
    """Make this process one that may build messages, as ``flwr run`` does before it calls."""
    # ``flwr.simulation.run_simulation``, which starts Ray for it.
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 1, 1


def empty_run(run_id: int) -> Run:
    """Return what a grid says of its run where there is nothing to say."""
    # ``Grid.run`` of a grid of Flower's own.
    return Run.create_empty(run_id)


def name_message(message: Message, identity: str) -> None:
    """Give a message the id that replies refer to."""
    # ``Grid.push_messages`` of a grid of Flower's own; ``metadata.message_id`` can only be read.
    message.metadata.__dict__["_message_id"] = identity


def valid_replies(strategy: FedAvg, replies: Iterable[Message]) -> list[Message]:
    """Return the replies to a training message that are no errors, checked against each other.

    Raises
    ------
    StrategyRefusal
        If their records do not fit together.
    """
    # ``FedAvg.aggregate_train``, which would average as well.
    return strategy._check_and_log_replies(replies, is_train=True)[0]


def array_of(header: Array, data: bytes) -> Array:
    """Return an array of the type, shape and kind of another, with its own bytes."""
    # ``Array(header.dtype, header.shape, header.stype, data)``, which takes ten times as long.
    array = Array.__new__(Array)
    fields = array.__dict__
    fields.update(header.__dict__)
    fields["data"] = data
    return array


def array_record(arrays: dict[str, Array]) -> ArrayRecord:
    """Return a record of arrays."""
    # ``ArrayRecord(arrays)``: item by item, its checks take longer than all the rest.
    record = ArrayRecord()
    record.__dict__["_data"] = arrays
    return record


def config_record(values: Mapping[str, Any]) -> ConfigRecord:
    """Return a record of settings that come out of another record."""
    # ``ConfigRecord(values)``, which would check every entry of a mask again.
    record = ConfigRecord()
    record.__dict__["_data"] = dict(values.items())
    return record
