"""A view of Flower's Grid in which the nodes are the clients drawn for a round.

A strategy asks a Grid for its nodes and addresses one message to each. Here the nodes it sees are
partition ids, so that drawing, order and results do not depend on Flower's random node ids, nor on
how many nodes there are: in a simulation any node can play any client. Every strategy, also
Flower's own, gets the same draw, and none can train on a held-out client. The replies come back
sorted by partition id, which makes sums over them the same whoever answered first.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedmetanas.errors import RunError
from fedmetanas.experiments.randomness import rng
from fedmetanas.strategies import wire
from fedmetanas.strategies.flower import Run

from .nodes import ClientError, Nodes, pause
from .replies import BadReplyError, Expected, LeftOut, brief, checked

T = TypeVar("T")

# What Flower's decoder raises on a client's bytes.
UNREADABLE = (
    *(ArithmeticError, AttributeError, DecodeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)


class PartitionGrid(Grid):
    """Send messages addressed to partition ids over the grid of a run.

    Parameters
    ----------
    grid : Grid
        The grid of the run.
    nodes : Nodes
        Which of them plays a client.
    partitions : sequence of int
        The clients a strategy can see, those first that are to be sent their messages first.
    timeout : float
        Seconds to wait for all replies.
    needed : int
        Good replies that are needed, or as many as there are messages if these are fewer.
    report : callable
        Told of every reply that is left out, and its client's traceback, if there is one.

    Attributes
    ----------
    left_out : list of LeftOut
        Whose replies were left out since this view was made, by client.
    sent, received : tuple of int
        Bytes of weights and of alphas, down and up, since this view was made.
    client_seconds : float
        Compute time of the busiest worker since then.
    waited : float
        Seconds from sending messages to the last of their replies, since then.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Nodes,
        partitions: Sequence[int],
        timeout: float,
        needed: int,
        report: Callable[[LeftOut, str], None],
    ) -> None:
        self.grid = grid
        self.nodes = nodes
        self.partitions = list(partitions)
        self.timeout = timeout
        self.needed = needed
        self.report = report
        self.left_out: list[LeftOut] = []
        self.sent = (0, 0)
        self.received = (0, 0)
        self.client_seconds = 0.0
        self.waited = 0.0
        self.asking_since: float | None = None  # for nodes, and has sent nothing

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
        """Return the partition ids; raise RunError if a strategy waits for more of them."""
        self.asking_since = self.asking_since or time.monotonic()
        if time.monotonic() > self.asking_since + self.timeout:
            raise RunError(
                f"the strategy waits for more than the {len(self.partitions)} clients of the round "
                f"(clients_per_round), for {self.timeout:g} s (engine.timeout)"
            )
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
        """Send messages and wait for the replies; return the good ones, sorted by partition id.

        If they are too few, the others are asked once more.

        Raises
        ------
        ClientError
            If they are too few again, or so are the nodes that connect in time.
        """
        messages = list(messages)
        timeout = self.timeout if timeout is None else timeout
        needed = min(self.needed, len(messages))
        started = time.perf_counter()
        good = self._ask(messages, timeout)
        if len(good) < needed:
            others = [m for m in messages if m.metadata.dst_node_id not in good]
            good |= self._ask(others, timeout)
        if len(good) < needed:
            reasons = {left.client: left.reason for left in self.left_out}
            raise ClientError(
                f"only {len(good)} of {len(messages)} clients gave a good reply, and min_replies "
                f"asks for {needed}: "
                + "; ".join(
                    f"{self.nodes.known(client).name}: {why}"
                    for client, why in sorted(reasons.items())
                ),
                self.left_out,
            )
        ordered = [good[client] for client in sorted(good)]
        self._account(ordered)
        self.waited += time.perf_counter() - started
        return ordered

    def _ask(self, messages: list[Message], timeout: float) -> dict[int, Message]:
        """Send messages; return the good replies by client, and leave out the others."""
        client_of = self._push(messages)
        sent = {message.metadata.dst_node_id: message for message in messages}
        made: dict[int, Expected] = {}
        expected = partial(_once, made, make=Expected)
        good: dict[int, Message] = {}
        waiting = set(client_of)
        started = time.monotonic()
        while waiting and time.monotonic() < started + timeout:
            answered = set()
            for message in sorted(waiting):
                client = client_of[message]
                try:
                    reply = pulled(self.grid, message)
                    if reply is None:
                        continue
                    known = self.nodes.known(client)
                    good[client] = checked(
                        reply, sent[client], known.examples, expected, known.data
                    )
                except BadReplyError as error:
                    self._leave_out(sent[client], str(error), error.trace)
                answered.add(message)
            waiting -= answered
            if not answered:
                pause(started)
        for client in sorted(client_of[message] for message in waiting):
            self._leave_out(sent[client], f"no reply within {timeout:g} s (engine.timeout)")
        self.left_out.sort(key=lambda left: left.client)
        self.asking_since = None
        return good

    def _leave_out(self, message: Message, reason: str, trace: str = "") -> None:
        left = LeftOut(message.metadata.dst_node_id, message.metadata.message_type, reason)
        self.left_out.append(left)
        self.report(left, trace)

    def _push(self, messages: Iterable[Message]) -> dict[str, int]:
        """Send the messages; return the client behind each message id."""
        order = {client: place for place, client in enumerate(self.partitions)}
        messages = list(messages)
        if outside := {m.metadata.dst_node_id for m in messages} - order.keys():
            raise RunError(f"the strategy asks client {min(outside)}, which is not in the round")
        nodes = self.nodes.find(m.metadata.dst_node_id for m in messages)
        outgoing, clients = [], []
        sizes: dict[int, tuple[int, int]] = {}
        for message in sorted(messages, key=lambda m: order[m.metadata.dst_node_id]):
            client = message.metadata.dst_node_id
            if client not in nodes:
                self._leave_out(message, self.nodes.absence(client))
                continue
            addressed = RecordDict(dict(message.content.items()))
            key = next(iter(message.content.config_records), "config")
            config = message.content.config_records.get(key, ConfigRecord())
            addressed[key] = wire.with_partition(config, client)
            outgoing.append(Message(addressed, nodes[client], message.metadata.message_type))
            clients.append(client)
            for record in message.content.array_records.values():
                self.sent = _add(self.sent, _once(sizes, record, wire.count_bytes))
        return dict(zip(self.grid.push_messages(outgoing), clients, strict=True))

    def _account(self, replies: list[Message]) -> None:
        """Add up bytes, and the seconds of each worker process."""
        busy: dict[object, float] = {}
        for reply in replies:
            for record in reply.content.array_records.values():
                self.received = _add(self.received, wire.count_bytes(record))
            metrics = reply.content.metric_records["metrics"]
            worker, seconds = metrics["worker"], float(metrics["seconds"])  # type: ignore[arg-type]
            busy[worker] = busy.get(worker, 0.0) + seconds
        self.client_seconds += max(busy.values(), default=0.0)


def pulled(grid: Grid, message: str) -> Message | None:
    """Return the reply to a message, if it has come.

    One at a time: Flower decodes all that it pulls at once, and nothing is left of it if one
    client's bytes cannot be decoded.

    Raises
    ------
    BadReplyError
        If they cannot.
    """
    try:
        replies = list(grid.pull_messages([message]))
    except UNREADABLE as error:
        raise BadReplyError(f"a reply that cannot be decoded: {brief(error)}") from None
    of_message = (r for r in replies if r.metadata.reply_to_message_id == message)
    return next(of_message, None)


def draw(clients: int, count: int, seed: int, server_round: int) -> list[int]:
    """Draw `count` of the clients 0 .. clients - 1 for a round, sorted."""
    chosen = rng("draw", seed, server_round).choice(clients, count, replace=False)
    return sorted(int(client) for client in chosen)


def _once(known: dict[int, T], record: ArrayRecord, make: Callable[[ArrayRecord], T]) -> T:
    """Return what is made of a record: once, where it goes to many clients."""
    if id(record) not in known:
        known[id(record)] = make(record)
    return known[id(record)]


def _add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return first[0] + second[0], first[1] + second[1]
