"""A view of Flower's Grid in which the nodes are the clients drawn for a round.

A strategy asks a Grid for its nodes and addresses one message to each. Here the nodes it sees are
partition ids, so that drawing, order and results do not depend on Flower's random node ids, nor on
how many nodes there are: in a simulation any node can play any client. Every strategy, also
Flower's own, gets the same draw, and none can train on a held-out client. The replies come back
sorted by partition id, which makes sums over them the same whoever answered first.
"""

import time
from collections.abc import Iterable, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from experiments.randomness import rng
from strategies import wire

PULL_INTERVAL = 0.02  # seconds


class ClientError(RuntimeError):
    """A client answered with an error, or not in time. The message names it and the stage."""


class PartitionGrid(Grid):
    """Send messages addressed to partition ids over the grid of a run.

    Parameters
    ----------
    grid : Grid
        The grid of the run.
    partitions : sequence of int
        The clients a strategy can see, those first that are to be sent their messages first.
    timeout : float
        Seconds to wait for all replies.

    Attributes
    ----------
    sent, received : tuple of int
        Bytes of weights and of alphas, down and up, since this view was made.
    client_seconds : float
        Compute time of the busiest worker since then.
    """

    def __init__(self, grid: Grid, partitions: Sequence[int], timeout: float) -> None:
        self.grid = grid
        self.partitions = list(partitions)
        self.timeout = timeout
        self.sent = (0, 0)
        self.received = (0, 0)
        self.client_seconds = 0.0

    def set_run(self, run: Run) -> None:
        """Set the run of the grid behind."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid behind."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a partition id."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the partition ids."""
        return list(self.partitions)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send each message to the node that plays its client."""
        return self._push(messages).keys()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for all replies, which are sorted by partition id.

        Raises
        ------
        ClientError
            If a client answers with an error, or one does not answer in time.
        """
        client_of = self._push(messages)
        replies: dict[int, Message] = {}
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while waiting := [m for m, client in client_of.items() if client not in replies]:
            if time.monotonic() > deadline:
                silent = ", ".join(str(client_of[m]) for m in waiting)
                raise ClientError(f"no reply from client {silent} in time (engine.timeout)")
            pulled = list(self.grid.pull_messages(waiting))
            for reply in pulled:
                client = client_of[reply.metadata.reply_to_message_id]
                if reply.has_error():
                    stage = reply.metadata.message_type
                    raise ClientError(f"client {client} failed in {stage}: {reply.error.reason}")
                replies[client] = reply
            if not pulled:
                time.sleep(PULL_INTERVAL)
        ordered = [replies[client] for client in sorted(replies)]
        self._account(ordered)
        return ordered

    def _push(self, messages: Iterable[Message]) -> dict[str, int]:
        """Send the messages; return the client behind each message id."""
        nodes = sorted(self.grid.get_node_ids())
        if not nodes:
            raise ClientError("no node is connected")
        order = {client: place for place, client in enumerate(self.partitions)}
        outgoing, clients = [], []
        for message in sorted(messages, key=lambda m: order[m.metadata.dst_node_id]):
            client = message.metadata.dst_node_id
            addressed = RecordDict(dict(message.content.items()))
            key = next(iter(message.content.config_records), "config")
            config = message.content.config_records.get(key, ConfigRecord())
            addressed[key] = wire.with_partition(config, client)
            node = nodes[client % len(nodes)]
            outgoing.append(Message(addressed, node, message.metadata.message_type))
            clients.append(client)
            for record in message.content.array_records.values():
                self.sent = _add(self.sent, wire.count_bytes(record))
        return dict(zip(self.grid.push_messages(outgoing), clients, strict=True))

    def _account(self, replies: list[Message]) -> None:
        """Add up bytes, and the seconds of each worker process."""
        busy: dict[object, float] = {}
        for reply in replies:
            for record in reply.content.array_records.values():
                self.received = _add(self.received, wire.count_bytes(record))
            metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
            worker = metrics.get("worker")
            seconds = metrics.get("seconds", 0.0)
            if isinstance(seconds, int | float):
                busy[worker] = busy.get(worker, 0.0) + seconds
        self.client_seconds += max(busy.values(), default=0.0)


def draw(clients: int, count: int, seed: int, server_round: int) -> list[int]:
    """Draw `count` of the clients 0 .. clients - 1 for a round, sorted."""
    chosen = rng("draw", seed, server_round).choice(clients, count, replace=False)
    return sorted(int(client) for client in chosen)


def _add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return first[0] + second[0], first[1] + second[1]
