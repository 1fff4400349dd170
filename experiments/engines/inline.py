"""The inline engine: the same apps in one process, one client after the other, without Ray.

For debugging, for tests and for a single GPU. An error keeps its traceback and says which client it
came from, and in which stage.
"""

from collections.abc import Callable, Iterable
from itertools import count

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedmetanas.experiments.settings import Settings
from fedmetanas.strategies import flower

from .apps import (
    CLIENT_APP,
    NODE,
    SERVER_APP,
    AppByName,
    RunConfig,
    app_named,
    context_of,
    quieten_flower,
)

ClientCallable = Callable[[Message, Context], Message]

STEPS = "fedmetanas.client.cuda_graphs:STEPS"


class InlineGrid(Grid):
    """A grid of one node that runs the ClientApp when messages are pushed.

    Parameters
    ----------
    client_app : callable
        Takes a message and a context, returns the reply.
    context : Context
        The node's context.
    """

    def __init__(self, client_app: ClientCallable, context: Context) -> None:
        self.client_app = client_app
        self.context = context
        self.replies: dict[str, Message] = {}
        self.numbers = count(1)
        flower.take_place_in_run(context.run_id)

    def set_run(self, run: flower.Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> flower.Run:
        """The one run."""
        return flower.empty_run(self.context.run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the one node."""
        return [NODE]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the ClientApp on every message."""
        identities = []
        for message in messages:
            identity = f"inline-{next(self.numbers)}"
            flower.name_message(message, identity)
            try:
                self.replies[identity] = self.client_app(message, self.context)
            except Exception as error:
                stage = message.metadata.message_type
                config = next(iter(message.content.config_records.values()))
                error.add_note(f"in client {config['partition-id']!r}, stage {stage}")
                raise
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to some messages, those that there are."""
        return [self.replies.pop(name) for name in message_ids if name in self.replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the ClientApp on every message and return the replies."""
        return self.pull_messages(self.push_messages(messages))


def run_inline(settings: Settings, run_config: RunConfig) -> None:
    """Run an experiment in this process.

    Raises
    ------
    Exception
        Whatever an app raises, with a note that names the client and the stage.
    """
    quieten_flower()
    context = context_of(run_config)
    grid = InlineGrid(AppByName(CLIENT_APP, run_config), context_of(run_config))
    try:
        app_named(SERVER_APP)(grid=grid, context=context)
    finally:
        app_named(STEPS).forget()  # what clients keep on a GPU ends with the run
