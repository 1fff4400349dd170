"""Machines of their own in one process: a grid whose nodes each have a node config."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from PIL import Image

from fedmetanas.experiments.engines.apps import CLIENT_APP, AppByName, context_of
from fedmetanas.experiments.engines.inline import InlineGrid
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


class Machines(InlineGrid):
    """Nodes with node configs of their own; messages are answered when they are pushed.

    Parameters
    ----------
    run_config : dict
        Of the run.
    nodes : dict
        Node configs by node id; it may be changed while a run is on.
    """

    def __init__(self, run_config: Mapping[str, Any], nodes: dict[int, dict[str, Any]]) -> None:
        super().__init__(AppByName(CLIENT_APP, run_config), context_of(dict(run_config)))
        self.nodes = nodes
        self.run_config = dict(run_config)
        self.walked: list[tuple[int, Message, Message]] = []  # node, what was sent, the reply
        self.silent: set[int] = set()  # nodes that are there and do not answer
        self.before_push: Callable[[list[Message]], None] = lambda messages: None

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
            reply = self.client_app(message, context)
            self.walked.append((node, message, reply))
            self.replies[identity] = reply
        return identities
