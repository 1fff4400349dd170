"""The ClientApp: Flower's messages to and from the NumPyClient."""

import os
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

from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.experiment import experiment_of
from fedmetanas.strategies import wire

from .numpy_client import MetaClient

Handler = Callable[[Message, Context], Message]


def report_errors(message: Message, context: Context, call_next: Handler) -> Message:
    """Reply with the traceback where a handler raises, the same whichever engine runs it."""
    try:
        return call_next(message, context)
    except Exception:
        reason = f"{DIGEST}\n{traceback.format_exc()}"
        return Message(Error(wire.RAISED, reason), reply_to=message)


app = ClientApp(mods=[report_errors])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's images; reply with arrays and metrics."""
    client, arrays, config = _open(message, context)
    trained, examples, metrics = client.fit(arrays, config)
    record = wire.to_record(dict(zip(client.keys, trained, strict=True)))
    return _reply(message, {"num-examples": examples, **metrics}, record)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on this client's test images, before and after adaptation; reply with metrics."""
    client, arrays, config = _open(message, context)
    loss, examples, metrics = client.evaluate(arrays, config)
    return _reply(message, {"num-examples": examples, "loss": loss, **metrics})


@app.query()
def compare(message: Message, context: Context) -> Message:
    """Measure the losses of some networks on this client's query images; reply with metrics."""
    client, arrays, config = _open(message, context)
    losses, examples, seconds = client.compare(arrays, config)
    return _reply(message, {"num-examples": examples, wire.LOSSES: losses, "seconds": seconds})


def _open(message: Message, context: Context) -> tuple[MetaClient, list[Any], dict[str, Any]]:
    experiment = experiment_of(context.run_config, context.node_config)
    config = dict(next(iter(message.content.config_records.values())))
    record = next(iter(message.content.array_records.values()))
    partition_id = config["partition-id"]
    if not isinstance(partition_id, int) or not 0 <= partition_id < len(experiment.parts):
        raise ValueError(f"there is no client {partition_id!r} in this experiment")
    client = MetaClient(experiment, partition_id, list(record))
    return client, list(wire.from_record(record).values()), config


def _reply(message: Message, metrics: dict[str, Any], arrays: ArrayRecord | None = None) -> Message:
    # The process tells the server which clients shared a worker, and so what transport cost.
    content = RecordDict(
        {
            "metrics": MetricRecord({**metrics, "worker": os.getpid()}),
            "config": ConfigRecord({wire.CODE: DIGEST}),
        }
    )
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content=content, reply_to=message)
