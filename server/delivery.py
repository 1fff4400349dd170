"""The end of a run for its sites: each gets the network that was found, and keeps it."""

import sys
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedmetanas.experiments.console import say
from fedmetanas.experiments.files import json_text
from fedmetanas.experiments.settings import Settings
from fedmetanas.strategies import wire

from .hooks import SearchResult
from .nodes import Nodes, name_of, pause
from .partition_grid import pulled
from .replies import BadReplyError, said_by


def deliver(grid: Grid, nodes: Nodes, settings: Settings, run: str, found: SearchResult) -> None:
    """Send the network to all sites that are here; say who has not kept it.

    Parameters
    ----------
    grid : Grid
        The grid of the run.
    nodes : Nodes
        Which node is which site.
    settings : Settings
        For the names of the sites, and for how long they may take.
    run : str
        Name of the run; a site keeps the network under it.
    found : SearchResult
        The network and its summary.
    """
    config = ConfigRecord(
        {
            "name": run,
            "genotype": found.genotype.to_json(),
            "summary": json_text(found.summary),
        }
    )
    content = RecordDict({"arrays": wire.weights_to(found.weights), "config": config})
    waiting = dict(nodes.find(range(settings.partitions)))
    problems = {
        client: nodes.absence(client)
        for client in range(settings.partitions)
        if client not in waiting
    }
    messages = [Message(content, node, wire.KEEP) for node in waiting.values()]
    asked = dict(zip(waiting, grid.push_messages(messages), strict=True))
    started = time.monotonic()
    while asked and time.monotonic() < started + settings.engine.timeout:
        for client, message in list(asked.items()):
            try:
                if (reply := pulled(grid, message)) is None:
                    continue
                if said_by(reply).get("kept") is not True:
                    problems[client] = "its node config names no folder for results"
            except BadReplyError as error:
                problems[client] = str(error)
            del asked[client]
        pause(started)
    problems |= dict.fromkeys(asked, "it has not answered in time")
    for client, why in sorted(problems.items()):
        say(f"{name_of(settings, client)} has not kept the network: {why}", stream=sys.stderr)
