"""Who is there: every node on a machine of its own is asked, once, when it is new."""

from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedmetanas.experiments.sites.agreement import Facts, read_facts
from fedmetanas.strategies import wire

from .partition_grid import pulled
from .replies import BadReplyError, UnavailableError, brief, said_by


@dataclass(frozen=True)
class Answer:
    """What a node has said.

    Attributes
    ----------
    facts : Facts or None
        What it has; None where it could not say so.
    part : tuple or None
        Which part of how many it plays of a copy, if it says so.
    reason : str
        Why it could not answer.
    """

    facts: Facts | None = None
    part: tuple[int, int] | None = None
    reason: str = ""


class Hello:
    """The nodes that are connected, and what they have said.

    Parameters
    ----------
    grid : Grid
        The grid of the run.

    Attributes
    ----------
    answers : dict
        By node id, those first that answered first; nodes that are gone are not in it.
    asked : dict
        By node id, the message that it has not answered yet.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.answers: dict[int, Answer] = {}
        self.asked: dict[int, str] = {}

    def meet(self) -> None:
        """Forget nodes that are gone, ask those that are new, and take what they have answered."""
        here = set(self.grid.get_node_ids())
        self.forget([node for node in (*self.answers, *self.asked) if node not in here])
        new = sorted(here - self.answers.keys() - self.asked.keys())
        if new:
            content = RecordDict({"config": ConfigRecord({})})
            messages = [Message(content, node, wire.HELLO) for node in new]
            self.asked |= dict(zip(new, self.grid.push_messages(messages), strict=True))
        for node, message in list(self.asked.items()):
            try:
                reply = pulled(self.grid, message)
                if reply is None:
                    continue
                self.answers[node] = _answer(reply)
            except UnavailableError:
                pass  # it has just gone; if it has not, it is asked again
            except BadReplyError as error:
                self.answers[node] = Answer(reason=str(error))
            del self.asked[node]

    def forget(self, nodes: Iterable[int]) -> None:
        """Forget nodes, so that they are asked again if they are still there."""
        for node in nodes:
            self.answers.pop(node, None)
            self.asked.pop(node, None)


def _answer(reply: Message) -> Answer:
    """Read the answer of a node.

    Raises
    ------
    BadReplyError
        If it is none, or not what it must be.
    """
    said = said_by(reply)
    try:
        facts = read_facts(said)
    except ValueError as error:
        raise BadReplyError(str(error)) from None
    if wire.PARTITION not in said:
        return Answer(facts)
    part, parts = said[wire.PARTITION], said.get(wire.PARTITIONS)
    if type(part) is not int or type(parts) is not int or not 0 <= part < parts:
        raise BadReplyError(f"it plays part {brief(part)} of {brief(parts)}, which is none")
    return Answer(facts, (part, parts))
