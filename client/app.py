"""The ClientApp: Flower's messages to and from the NumPyClient."""

import json
import secrets
import traceback
from collections.abc import Callable
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.client_data import as_one_client, open_site
from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.experiment import experiment_of, settings_at
from fedmetanas.experiments.node import Node, node_of
from fedmetanas.experiments.results.site_folder import keep
from fedmetanas.experiments.settings import Settings
from fedmetanas.experiments.sites.facts import facts_of
from fedmetanas.experiments.sites.site_log import report
from fedmetanas.strategies import wire

from .numpy_client import MetaClient

#: Tells the server which clients shared a process, and so what transport cost.
WORKER = secrets.randbits(32)

Handler = Callable[[Message, Context], Message]


def report_errors(message: Message, context: Context, call_next: Handler) -> Message:
    """Reply with an error where a handler raises, the same whichever engine runs it."""
    try:
        return call_next(message, context)
    except Exception as error:
        reason = f"{DIGEST}\n{_told(error, context)}"
        return Message(Error(wire.RAISED, reason), reply_to=message)


def _told(error: Exception, context: Context) -> str:
    """Return what the server is told of an error.

    In a simulation that is the traceback. From a machine of its own no word of it leaves, since it
    may hold names of files: the server gets its type, and the number under which the whole of it
    stands in that machine's own log.
    """
    text = traceback.format_exc()
    try:
        node = node_of(context.node_config)
    except SettingsError:
        node = Node()
    if node.virtual:
        return text
    name = node.site or "a node"
    return f"{name}: {type(error).__name__} {report(node.log, text)}; its own log says why"


app = ClientApp(mods=[report_errors])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's images; reply with arrays and metrics."""
    client, arrays, config = _open(message, context)
    trained, examples, metrics = client.fit(arrays, config)
    record = wire.to_record(dict(zip(client.keys, trained, strict=True)))
    return _reply(message, client, {"num-examples": examples, **metrics}, record)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on this client's test images, before and after adaptation; reply with metrics."""
    client, arrays, config = _open(message, context)
    loss, examples, metrics = client.evaluate(arrays, config)
    return _reply(message, client, {"num-examples": examples, "loss": loss, **metrics})


@app.query()
def compare(message: Message, context: Context) -> Message:
    """Measure the losses of some networks on this client's query images; reply with metrics."""
    client, arrays, config = _open(message, context)
    losses, examples, seconds = client.compare(arrays, config)
    metrics = {"num-examples": examples, wire.LOSSES: losses, "seconds": seconds}
    return _reply(message, client, metrics)


@app.query(wire.HELLO.removeprefix("query."))
def hello(message: Message, context: Context) -> Message:
    """Say who this node is, and what it has."""
    node = node_of(context.node_config)
    if node.site and node.folder:
        settings = settings_at(node, context.run_config)
        said = facts_of(open_site(settings, node.folder), node.site, node.disclose)
    else:
        experiment = experiment_of(context.run_config, context.node_config)
        assert experiment.dataset is not None  # only sites have their own
        said = facts_of(experiment.dataset, "", node.disclose)
        if node.partition is not None:
            split = experiment.client(node.partition).split
            said |= {"train-images": len(split.support) + len(split.query)}
            said |= {"test-images": len(split.test), wire.PARTITION: node.partition}
            said |= {wire.PARTITIONS: node.partitions or 0}
    return Message(RecordDict({"config": ConfigRecord(said)}), reply_to=message)


@app.query(wire.KEEP.removeprefix("query."))
def keep_network(message: Message, context: Context) -> Message:
    """Keep the network that was found, where the node config says so."""
    node = node_of(context.node_config)
    config = next(iter(message.content.config_records.values()))
    if node.results:
        weights = wire.weights_from(_arrays(message))
        settings = as_one_client(settings_at(node, context.run_config))
        genotype, summary = str(config["genotype"]), json.loads(str(config["summary"]))
        keep(node.results, str(config["name"]), settings, genotype, weights, summary)
    said = ConfigRecord({wire.CODE: DIGEST, "kept": node.results is not None})
    return Message(RecordDict({"config": said}), reply_to=message)


def _open(message: Message, context: Context) -> tuple[MetaClient, list[Any], dict[str, Any]]:
    experiment = experiment_of(context.run_config, context.node_config)
    config = dict(next(iter(message.content.config_records.values())))
    arrays = _arrays(message)
    asked, settings = config[wire.PARTITION], experiment.settings
    if not isinstance(asked, int) or not 0 <= asked < settings.partitions:
        raise ValueError(f"there is no client {asked!r} in this experiment")
    if (own := _own_number(node_of(context.node_config), settings)) not in (None, asked):
        raise ValueError(f"this node is client {own}, and plays no other")
    return MetaClient(experiment, asked, list(arrays)), list(arrays.values()), config


def _own_number(node: Node, settings: Settings) -> int | None:
    """Return the one client that a node is; None if it plays any."""
    names = (*settings.sites, *settings.held_out_sites)
    return names.index(node.site) if node.site else node.partition


def _arrays(message: Message) -> dict[str, Any]:
    return wire.from_record(next(iter(message.content.array_records.values())))


def _reply(
    message: Message,
    client: MetaClient,
    metrics: dict[str, Any],
    arrays: ArrayRecord | None = None,
) -> Message:
    images = client.experiment.dataset or client.experiment.site(client.partition_id)
    content = RecordDict(
        {
            "metrics": MetricRecord({**metrics, "worker": WORKER}),
            "config": ConfigRecord({wire.CODE: DIGEST, wire.DATA: images.digest}),
        }
    )
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content=content, reply_to=message)
