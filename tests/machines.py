"""Machines of their own in one process: a grid whose nodes each have a node config."""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from PIL import Image

from fedmetanas.experiments.engines.apps import CLIENT_APP, AppByName
from fedmetanas.strategies import flower

CLASSES = ("cat", "dog", "emu")
AGREED = (
    *("data.dataset=imagefolder", "data.image_size=8", "data.channels=1"),
    f"data.classes=[{', '.join(CLASSES)}]",
)


def write_images(folder: Path, seed: int, counts: Mapping[str, tuple[int, int]], side: int = 9):
    """Write grey images of noise: so many of each class to train and to test."""
    random = np.random.default_rng(seed)
    for name, (train, test) in counts.items():
        brightness = 60 + 50 * (sum(map(ord, name)) % 4)
        for part, number in (("train", train), ("test", test)):
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                pixels = random.normal(brightness, 40, (side, side)).clip(0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(place / f"anna-smith-{index}.png")


class Machines(Grid):
    """Nodes with node configs of their own; messages are answered when they are pushed.

    Parameters
    ----------
    run_config : dict
        Of the run.
    nodes : dict
        Node configs by node id; it may be changed while a run is on.
    """

    def __init__(self, run_config: Mapping[str, Any], nodes: dict[int, dict[str, Any]]) -> None:
        self.nodes = nodes
        self.run_config = dict(run_config)
        self.app: Callable[[Message, Context], Message] = AppByName(CLIENT_APP, run_config)
        self.replies: dict[str, Message] = {}
        self.numbers = count(1)
        self.walked: list[tuple[int, Message, Message]] = []  # node, what was sent, the reply
        self.silent: set[int] = set()  # nodes that are there and do not answer
        self.before_push: Callable[[list[Message]], None] = lambda messages: None
        flower.take_place_in_run(1)

    def set_run(self, run: flower.Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> flower.Run:
        return flower.empty_run(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.before_push(messages)
        identities = []
        for message in messages:
            identity = f"machine-{next(self.numbers)}"
            identities.append(identity)
            flower.name_message(message, identity)
            node = message.metadata.dst_node_id
            if node not in self.nodes or node in self.silent:
                continue
            context = Context(1, node, self.nodes[node], RecordDict(), dict(self.run_config))
            reply = self.app(message, context)
            self.walked.append((node, message, reply))
            self.replies[identity] = reply
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies.pop(name) for name in message_ids if name in self.replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))
