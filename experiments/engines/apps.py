"""The two apps by their names in ``pyproject.toml``, as ``flwr run`` takes them."""

import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.node import SIMULATED
from fedmetanas.strategies.flower import SIMULATION_MODULES

SERVER_APP = "fedmetanas.server_app:app"
CLIENT_APP = "fedmetanas.client_app:app"

NODE = 2  # the one node of the inline engine; 1 is the server's

RunConfig = dict[str, Any]


@dataclass(frozen=True)
class AppByName:
    """An app that is imported where it is called, with the run config it gets there.

    Ray sends it to its workers: two small values instead of a pickled app.
    """

    name: str
    run_config: Mapping[str, Any]

    def __call__(self, message: Message, context: Context) -> Message:
        """Call the ClientApp."""
        # A context of its own with the same state: the engine refuses one whose config changed.
        own = replace(context, run_config=dict(self.run_config))
        reply: Message = app_named(self.name)(message=message, context=own)
        return reply


def app_named(name: str) -> Any:
    """Import what ``module:attribute`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def context_of(run_config: RunConfig) -> Context:
    """Return the context in which an app is called."""
    return Context(
        run_id=1,
        node_id=NODE,
        node_config={SIMULATED: True},
        state=RecordDict(),
        run_config=dict(run_config),
    )


class Warnings(logging.Handler):
    """Say what Flower, or a strategy in its name, warns of: each thing once.

    Its errors are left out: the server says them once, and an exception says itself. So is what a
    person can do nothing about: that Ray's workers die, or that we call what is deprecated.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, if it is new."""
        words = one_line(record.getMessage())
        warns = record.levelno == logging.WARNING and record.module not in SIMULATION_MODULES
        if warns and words not in self.said:
            self.said.add(words)
            say(f"warning: {words}", stream=sys.stderr)


def quieten_flower() -> None:
    """Leave the terminal to the progress bar: of several lines a round, show the warnings alone."""
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    flower.handlers = [Warnings()]
