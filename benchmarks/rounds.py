"""What is measured of whole rounds: their wall time, their messages, and what a search prunes."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.engines.apps import CLIENT_APP, NODE, AppByName
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.experiments.experiment import open_experiment
from fedmetanas.experiments.node import SIMULATED
from fedmetanas.experiments.settings import load
from fedmetanas.search_space.alphas import Mask
from fedmetanas.server.hooks import Hook, RoundResult, SearchState
from fedmetanas.server.loop import search
from fedmetanas.server.nodes import AnyNode, Known
from fedmetanas.server.partition_grid import PartitionGrid
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS

from .measure import Comparison, in_turns, of_seconds


def rounds(batch_size: int, repeats: int, device: torch.device) -> Iterator[Comparison]:
    """Compare the wall time of Ray's rounds with their compute, and that of messages with 3 ms."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "fedmetanas", "run", "digits", "rounds=8"]
        command.append(f"engine.device={device.type}")
        quiet = ["evaluation.every=100", "search.tau_rounds=3", "--out", str(out)]
        subprocess.run([*command, *quiet], check=True, stdout=subprocess.DEVNULL)
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [json.loads(line)["seconds"] for line in lines][2:]
    seconds = {
        "plain": [r["total"] for r in rounds],
        "ours": [r["client"] for r in rounds],
    }
    yield of_seconds("Ray round over its clients' compute, digits", seconds)
    yield empty_round(200, repeats)


def empty_round(clients: int, repeats: int) -> Comparison:
    """Time a round of clients that send back what they get: messages and aggregation alone."""
    experiment = open_experiment(load("digits", ["rounds=1"]))
    arrays = wire.to_arrays(*experiment.initial_parameters())
    size = sum(array.nbytes for array in arrays.values())

    def echo(message: Message, context: Context) -> Message:
        record = next(iter(message.content.array_records.values()))
        back = wire.to_record(wire.from_record(record))
        numbers = {"loss": 0.0, "accuracy": 0.0, "seconds": 0.0, "worker": 0}
        metrics = MetricRecord({"num-examples": 1, **numbers})
        code = ConfigRecord({wire.CODE: DIGEST})
        content = RecordDict({"arrays": back, "metrics": metrics, "config": code})
        return Message(content, reply_to=message)

    context = Context(1, NODE, {}, RecordDict(), {})

    def run() -> None:
        strategy = FedMetaNAS(experiment.plan)
        grid = InlineGrid(echo, context)
        nodes = AnyNode(grid, 60.0, 1, lambda client: Known(f"client {client}", 1, 1))
        view = PartitionGrid(grid, nodes, range(clients), 60.0, clients, lambda left, trace: None)
        messages = strategy.configure_train(1, wire.to_record(arrays), ConfigRecord(), view)
        strategy.aggregate_train(1, view.send_and_receive(messages))

    run()
    seconds = [s / clients for s in in_turns({"ours": run}, repeats)["ours"]]
    case = f"message to and from a client, {size / 1e6:.1f} MB in {len(arrays)} arrays; limit 3 ms"
    return of_seconds(case, {"plain": [0.003], "ours": seconds})


class _Masks(Hook):
    """A hook that notes the mask of every round."""

    def __init__(self, strategy: FedMetaNAS) -> None:
        self.strategy = strategy
        self.masks = [strategy.mask]

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        """Note the mask that the next round starts with."""
        self.masks.append(self.strategy.mask)


def masks_of_a_search() -> list[tuple[Mask, int]]:
    """Search with the default schedule, a tiny net and two clients; return masks and rounds."""
    tiny = "search.nodes=4 search.channels=4 search.layers=3 clients=2 held_out_clients=0"
    settings = load("digits", [*tiny.split(), "evaluation.every=1000"])
    experiment = open_experiment(settings)
    strategy = FedMetaNAS(experiment.plan)
    run_config = {"settings": settings.to_yaml()}
    context = Context(1, NODE, {SIMULATED: True}, RecordDict(), dict(run_config))
    hook = _Masks(strategy)
    search(InlineGrid(AppByName(CLIENT_APP, run_config), context), strategy, experiment, [hook])
    counts: Counter[bytes] = Counter()
    first: dict[bytes, Mask] = {}
    for mask in hook.masks[: settings.rounds]:
        key = b"".join(tensor.numpy().tobytes() for tensor in mask.tensors())
        first.setdefault(key, mask)
        counts[key] += 1
    return [(first[key], count) for key, count in counts.items()]
